"""From folders of images to features."""
