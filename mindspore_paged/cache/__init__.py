"""Policies of the paged KV cache: block ids, rows of blocks, tiers below the pool, and pages as bytes."""
