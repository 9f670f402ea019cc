"""The coreset order of a dataset that no machine holds, by Ray Data."""
