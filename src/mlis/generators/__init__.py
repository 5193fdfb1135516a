"""Stage 1a: features for classes without images."""
