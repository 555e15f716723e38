"""How a core that was compressed or moved is told by its name and its time."""

from __future__ import annotations

# What zstd, gzip, xz, lz4, bzip2 and others append to a file's name.
SUFFIXES = (".zst", ".gz", ".xz", ".lz4", ".bz2", ".lzma", ".lz", ".lzo", ".Z", ".zip", ".7z", ".sz")
SECOND_NS = 1_000_000_000


def stem(name: str) -> str:
    """Return a file's name without what a compressing program appended."""
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


def is_kept(mtime_ns: int, before_ns: int) -> bool:
    """Return whether a file has got another's mtime, in nanoseconds or in the whole units that older programs set."""
    return any(mtime_ns == before_ns // unit * unit for unit in (1, 1000, SECOND_NS))
