"""Readers of checkpoints: every format yields tensors under one set of names."""
