"""Repositories on the Hub: what is pushed, and what is loaded from there. Imports coresets, scores, data and utils."""
