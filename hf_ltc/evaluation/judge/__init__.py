"""Which of several coresets to keep, by held-out rows: the protocol, and the rows of a dataset for it."""
