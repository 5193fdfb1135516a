"""Features larger than memory: memory-mapped, streamed in batches, written to temporary files."""
