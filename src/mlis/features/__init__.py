"""Features of images and descriptors of classes, computed by pretrained models."""
