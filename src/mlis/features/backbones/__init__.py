"""Pretrained image models: RGB images in, one vector each out."""
