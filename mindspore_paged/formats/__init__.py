"""Files of other projects, opened and checked: what weights and tokenizers are both read from."""
