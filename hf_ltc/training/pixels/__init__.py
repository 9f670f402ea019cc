"""Files of images as pixels: whatever their metadata, and deep grey in one scale."""
