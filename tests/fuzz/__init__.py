"""Mutants of every format that is read, each of which must be answered rightly or refused in one line.

    a format's module      good samples, mutators that know its structure, and what the product does with such a file
    mutant.py              seed and number -> one mutant, always the same
    judge.py               uses a mutant and says what came of it
    worker.py              a process of its own: forks a child for some mutants, and outlives what they do to it
    campaign.py            drives workers, counts, saves what was found

`python scripts/fuzz.py --help` runs as many as one likes; what it finds goes to corpus/, smaller, with a fix.
"""
