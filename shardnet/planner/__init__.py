"""Problem and profile to plan. Pure: no torch, no network; a clock only to stop in time."""
