"""The HTTP server: what clients of OpenAI and others send becomes requests of an engine, and updates become answers."""
