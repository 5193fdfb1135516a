"""Saved models, the Hugging Face hub, ONNX."""
