"""A planned step on the device: its inputs, the compiled graphs, the pages and what moves them, the other ranks."""
