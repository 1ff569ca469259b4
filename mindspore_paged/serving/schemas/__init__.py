"""What clients send and get, a file for each interface; names and meanings are OpenAI's, further ones vLLM's."""
