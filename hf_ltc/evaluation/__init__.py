"""What coresets are worth: models trained on them. Imports trajectories, training and below."""
