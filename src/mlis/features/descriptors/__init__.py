"""From words, attributes and sentences to one descriptor per class."""
