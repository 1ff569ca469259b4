"""Long runs of random requests with injected faults, held against the same requests run alone: scripts/soak.py."""
