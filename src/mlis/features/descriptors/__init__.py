"""Class descriptors from sentences and attributes."""
