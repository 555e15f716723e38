"""Sources of markers, one file each, and their registry."""
