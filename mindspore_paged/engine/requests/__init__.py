"""What users ask for and get: prompts and their checks, sequences, text as it grows, outputs, remembered answers."""
