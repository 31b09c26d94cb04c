"""What a process of ours does with signals, streams, forks and its end. The same for every command and every device."""
