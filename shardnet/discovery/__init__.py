"""How a machine finds a cluster in its local network: an address, and never a way in."""
