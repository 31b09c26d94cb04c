"""The transport within one process, for tests: the semantics of RPC, and faults by script."""
