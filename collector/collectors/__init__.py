"""Kinds of evidence, one file each, and their registry."""
