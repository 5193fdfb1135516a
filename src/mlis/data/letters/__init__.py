"""The embedded dataset: accented letters, some of them never seen in training."""
