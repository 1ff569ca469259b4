"""Hugging Face folders whose weights are quantized: a module for each method, and what all of them become."""
