"""Models on the hub: which files are meant, which of these are here, and how the others come. See `models`."""
