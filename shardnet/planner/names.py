"""What a placement can be asked for by name: apart, so that a command says so before it loads what does it."""

from __future__ import annotations

METHODS = ("auto", "exact", "edgeshard", "lingualinked", "memory", "even", "solo")
OBJECTIVES = ("latency", "throughput", "energy")
SPREAD = "spread"
PLACEMENTS = (SPREAD, *METHODS)
"""Those of a running cluster."""
