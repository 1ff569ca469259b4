"""Tests of the Ascend C kernels and of the emulator that runs them."""
