"""Datasets: validation, splits, and readers of benchmarks, folders and tables."""

from mlis.data.dataset import GZSLDataset, Provenance, TestSplit, TrainingSplit
from mlis.data.io.benchmarks import TABLE_1, Counts, benchmark_name, load_benchmark
from mlis.data.io.folder import save_dataset
from mlis.data.io.tables import load_tables
from mlis.data.io.xlsa17 import load_pair
from mlis.data.load import load_dataset
from mlis.data.splits import Split
from mlis.data.summary import describe, format_info

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
    "save_dataset",
]
