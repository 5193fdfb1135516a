"""Feature extraction from folders of images."""
