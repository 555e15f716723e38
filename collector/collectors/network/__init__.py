"""The sockets of the crashed process, and the counters of its network namespace."""
