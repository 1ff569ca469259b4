"""Policies and storage of the paged KV cache: block ids, rows of blocks, and the device Parameters."""
