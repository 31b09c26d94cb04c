"""The process that carries between hosts, one on each."""
