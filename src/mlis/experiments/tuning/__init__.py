"""Choosing settings on validation classes with Optuna: `space`, `search` and `report`."""
