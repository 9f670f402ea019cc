"""The command line. Imports every other room, and is imported by none."""
