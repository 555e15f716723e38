"""The crashed process, while it still exists."""
