"""Weights on their way: a device without a copy of a checkpoint fetches its own tensors, part by part, and no others.

which part from whom          `errand` (pure)
who has what                  `directory` (pure), asked of the coordinator's `dispatch`
what lies on this disk        `store`; what of it may stay, `space` (pure)
what others get from here     `shelf`; when they wait, `courtesy` (pure)
all of a device's             `depot`, which fetches by `fetching` at its own `pace`
"""
