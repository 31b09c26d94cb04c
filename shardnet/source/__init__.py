"""A source's side of a cluster that another process coordinates."""
