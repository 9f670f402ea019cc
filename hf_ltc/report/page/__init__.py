"""One page that shows what a recording found, and which rows a budget keeps."""
