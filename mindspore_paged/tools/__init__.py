"""Calls of tools and thoughts: what a model may call, the forms in which it calls, and how its answers are read."""
