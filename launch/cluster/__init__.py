"""A cluster that outlives commands: `shardnet up`, `join`, `leave`, `remove`, `status`, `load` and `unload`."""
