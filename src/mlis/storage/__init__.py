"""Files that are written whole or not at all: atomic writes, locks, tensors with a checksum."""
