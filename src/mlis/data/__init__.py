"""Datasets: validated once, split as the protocol wants, read from benchmarks, folders, tables."""

from mlis.data.benchmarks import TABLE_1, Counts, benchmark_name, load_benchmark
from mlis.data.dataset import GZSLDataset, Provenance, TestSplit, TrainingSplit
from mlis.data.info import describe, format_info
from mlis.data.load import load_dataset
from mlis.data.splits import Split
from mlis.data.tables import load_tables
from mlis.data.xlsa17 import load_pair

__all__ = [
    "TABLE_1",
    "Counts",
    "GZSLDataset",
    "Provenance",
    "Split",
    "TestSplit",
    "TrainingSplit",
    "benchmark_name",
    "describe",
    "format_info",
    "load_benchmark",
    "load_dataset",
    "load_pair",
    "load_tables",
]
