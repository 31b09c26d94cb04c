"""Matrices of 4 bits by what a text shows of their inputs, unit by unit, and the checkpoint that they become."""
