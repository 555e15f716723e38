"""How fast to write."""
