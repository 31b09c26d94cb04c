"""`shardnet generate` and `shardnet demo`."""
