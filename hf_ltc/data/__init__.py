"""A dataset as it is stored: loading, columns, labels, splits, identity, Parquet files. Imports utils."""
