"""Datasets: validated once, split as the protocol wants, read from benchmarks, folders, tables."""
