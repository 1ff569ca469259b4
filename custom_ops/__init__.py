"""Custom operators of PagedAttention, compiled ahead of time for each backend."""
