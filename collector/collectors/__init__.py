"""Kinds of evidence, one file or one package each, and their registry."""
