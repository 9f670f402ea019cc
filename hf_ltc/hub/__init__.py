"""Repositories on the Hub: what is pushed and loaded, recipe and card. Imports coresets, scores, data and utils."""
