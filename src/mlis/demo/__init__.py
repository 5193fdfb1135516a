"""`mlis demo`: letters never seen in training, recognised offline, and a page to look at."""

from mlis.demo.run import run_demo

__all__ = ["run_demo"]
