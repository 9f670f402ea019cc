"""Images, texts, batches, models and the training loop. Imports data, utils and the configuration."""
