"""`shardnet wheel`: what makes a phone a device, handed over from this machine."""
