"""The training loop, its callbacks, checkpoints and the cache of trained generators."""
