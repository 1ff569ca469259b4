"""LLaMA as MindSpore Cells."""
