"""`shardnet bench`."""
