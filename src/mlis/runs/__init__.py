"""A run: one dataset and one set of settings, for one or more seeds and components."""
