"""The parsers of what others have written, with what must hold for any bytes, and where to begin."""
