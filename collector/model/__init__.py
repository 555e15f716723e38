"""Nouns. No I/O."""
