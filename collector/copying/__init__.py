"""The copy engine: copies files and streams to a disk without page cache."""
