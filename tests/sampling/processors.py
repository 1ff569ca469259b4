"""Logits processors of tests, to be named by where they are imported from."""

import numpy as np


def only_even(output_token_ids, logits):
    """Changes the logits in place."""
    logits[1::2] = -np.inf
    return logits


def another_than_before(prompt_token_ids, output_token_ids, logits):
    """Returns other logits, in which neither the last token of the text is, nor the first of the prompt."""
    changed = logits.copy()
    changed[[prompt_token_ids[0], (prompt_token_ids + output_token_ids)[-1]]] = -np.inf
    return changed


def fails_at_third(output_token_ids, logits):
    if len(output_token_ids) == 2:
        raise ValueError("no\nmore")
    return logits


class Holder:
    @staticmethod
    def plain(output_token_ids, logits):
        return logits


NO_FUNCTION = 5


def three_of_four(first, second, third, fourth):
    return None
