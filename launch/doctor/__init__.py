"""`shardnet doctor`."""
