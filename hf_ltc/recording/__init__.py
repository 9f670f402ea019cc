"""Recording: by record, a Trainer, your own loop, or from saved weights. Imports trajectories, training and below."""
