"""Recording: by record, by a Trainer, in your own loop, from saved weights. Imports trajectories, training and below."""
