"""Generalized zero-shot recognition by Metric Learning with Implicit Semantics (MLIS)."""

__version__ = "0.1.0"
