"""The cgroup of a crash and its parents."""
