"""Which rows a budget keeps: order, sampling, selection. Imports scores, data and utils."""
