"""One page of what a results store holds: tables, curves, classes, maps, and where all is from."""
