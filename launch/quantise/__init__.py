"""`shardnet quantise`."""
