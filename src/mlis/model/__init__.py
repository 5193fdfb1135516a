"""The recognizer and its parts: preprocessing, classification, batched inference."""
