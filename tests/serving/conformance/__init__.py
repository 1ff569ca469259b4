"""Suites that nobody here wrote, on a running server: `make conformance`."""
