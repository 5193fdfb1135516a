"""Stage 1b: the encoder, refined by metric learning with implicit semantics."""
