"""One shard at work: which work goes into a step, the step, the next token, the KV caches."""
