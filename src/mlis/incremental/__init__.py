"""Add, remove and rename classes of a trained recognizer."""
