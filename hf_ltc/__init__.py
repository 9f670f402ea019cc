"""Train on less of your Hugging Face dataset."""
