"""Scores of rows, from arrays to arrays, without torch. Imports data and utils."""
