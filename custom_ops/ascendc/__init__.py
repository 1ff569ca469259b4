"""The Ascend C kernels, the emulator that checks them on a CPU, and a model of their time."""
