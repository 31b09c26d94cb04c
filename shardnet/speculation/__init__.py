"""Tokens that are guessed before they are sampled: which they are, how many pay, and what becomes of them. Pure."""
