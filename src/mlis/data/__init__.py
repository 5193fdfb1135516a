"""Datasets: validated once, split as the protocol wants, read from benchmarks, folders, tables."""

from mlis.data.dataset import GZSLDataset, Provenance, TestSplit, TrainingSplit
from mlis.data.splits import Split

__all__ = ["GZSLDataset", "Provenance", "Split", "TestSplit", "TrainingSplit"]
