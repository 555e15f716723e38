"""Running incidents: a coroutine decides and waits, workers read and write."""
