"""`shardnet-run`: a script in torchrun's manner, with devices that it may coordinate."""
