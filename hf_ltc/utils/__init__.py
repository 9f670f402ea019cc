"""Errors, files written whole or not at all, processes, environment, what others may read. Imports no other room."""
