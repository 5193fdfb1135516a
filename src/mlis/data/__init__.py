"""Datasets: validated once, split as the protocol wants, read from benchmarks, folders, tables."""

from mlis.data.benchmarks import TABLE_1, Counts, benchmark_name, load_benchmark, load_pair
from mlis.data.dataset import GZSLDataset, Provenance, TestSplit, TrainingSplit
from mlis.data.splits import Split

__all__ = [
    "TABLE_1",
    "Counts",
    "GZSLDataset",
    "Provenance",
    "Split",
    "TestSplit",
    "TrainingSplit",
    "benchmark_name",
    "load_benchmark",
    "load_pair",
]
