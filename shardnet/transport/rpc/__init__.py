"""The transport between processes: torch.distributed.rpc in an elastic group. Nothing else imports it."""
