"""Errors, files written whole or not at all, processes, environment. Imports no other room."""
