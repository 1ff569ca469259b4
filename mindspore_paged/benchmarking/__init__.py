"""What the benchmark scripts share: lengths, arrivals, measuring an engine, and how results are shown and kept."""
