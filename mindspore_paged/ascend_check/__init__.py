"""The operators of a backend checked against NumPy, and on an NPU timed: what scripts/check_ascend.py runs."""
