"""llama.cpp beside shardnet: how it is built and run, and the files that both read."""
