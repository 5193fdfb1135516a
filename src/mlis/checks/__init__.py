"""Checks of a dataset or a model: what is likely wrong with it, and what to do."""

from mlis.checks.check import check
from mlis.checks.findings import Finding, Report

__all__ = ["Finding", "Report", "check"]
