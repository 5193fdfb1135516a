"""One file per format that datasets are read from or written to."""
