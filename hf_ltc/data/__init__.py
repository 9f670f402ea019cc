"""A dataset as it is stored: loading, columns, labels, splits, identity. Imports utils."""
