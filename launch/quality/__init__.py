"""`shardnet quality`."""
