"""A model exported to files: one graph, weights, tokenizer, kernels, and a manifest that vouches for them."""
