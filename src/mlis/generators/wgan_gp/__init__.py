"""Conditional WGAN-GP: networks, losses in closed form, trainer."""
