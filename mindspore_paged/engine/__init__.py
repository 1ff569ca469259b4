"""The engine: requests in, scheduled steps of one static graph, tokens out."""
