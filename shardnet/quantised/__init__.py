"""Weights of few bits: schemes, how floats are rounded to them, and the kernels that multiply with them."""
