"""What a recording says of a dataset: wrong labels, and the rows that contradict the validation samples."""
