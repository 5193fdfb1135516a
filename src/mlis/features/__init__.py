"""From photographs and words to features and descriptors, with pretrained models."""
