"""`shardnet profile`."""
