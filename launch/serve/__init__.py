"""`shardnet serve`."""
