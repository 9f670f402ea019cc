"""Recording: by record, a Trainer, a loop of one's own, saved weights. Imports trajectories, training and below."""
