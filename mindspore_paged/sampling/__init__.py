"""From logits to tokens: what a request asks of it, each sequence's random stream and counts, the sampler."""
