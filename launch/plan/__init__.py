"""`shardnet plan` and `shardnet simulate`."""
