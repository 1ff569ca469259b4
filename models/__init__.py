"""Decoders: families as data, and what computes them."""
