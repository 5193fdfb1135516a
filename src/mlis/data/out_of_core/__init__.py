"""Rows that stay in their file: memory-mapped, streamed in batches, spilled."""
