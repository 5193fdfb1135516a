"""One page of what a results store holds: tables, curves, classes, maps, and their origin."""
