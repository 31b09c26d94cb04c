"""Searches for plans that are optimal by proof, or come with a proven gap. Pure but for the clock that ends them."""
