"""Who computes which tokens in a step: the scheduler, its policies and predictions, drafts that a step verifies."""
