"""Text to token ids and back, from the files that come with a model."""

from mindspore_paged.tokenizer.tokenizer import Tokenizer, load_tokenizer

__all__ = ["Tokenizer", "load_tokenizer"]
