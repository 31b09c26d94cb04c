"""A small model that goes ahead of an answer where it is asked for, and offers the ring what may come next."""
