"""Engines side by side (data parallelism): one leads and routes, the others are in processes of their own."""
