"""Which rows a budget keeps: order, sampling, selection, overlap. Imports scores, data and utils."""
