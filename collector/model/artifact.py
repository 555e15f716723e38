"""What a collector yields, and what the manifest says of it."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

import msgspec

from collector.model.pressure import StepClass


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """
    What a step adds to the machine, declared before it runs.

    Args:
        step_class: What kind of load it is; the gate's rule goes by it.
        peak_bytes: Memory at most, beyond what a warm worker already holds.
        timeout_s: Default deadline of the step.
        light_head: What a direct step yields before its first file is light, and is read with the light steps.
    """

    step_class: StepClass
    peak_bytes: int
    timeout_s: float
    light_head: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """Where bytes came from: path as text, and the inode's facts where there is one."""

    path: str
    uid: int | None = None
    gid: int | None = None
    mode: int | None = None
    mtime_ns: int | None = None
    xattrs: dict[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulk:
    """
    A regular file to be copied by the copy engine.

    Args:
        fd: Open for reading; the receiver closes it.
        limit_bytes: Copy at most so many bytes; ``None`` for all.
        offset: First byte to copy; a multiple of 4096 (the engine maps whole pages).
    """

    fd: int
    limit_bytes: int | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HardLink:
    """A regular file to be kept by a hard link; copied by the engine where no link can be made."""

    fd: int


Body = bytes | Iterable[bytes | memoryview] | Bulk | HardLink


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """
    One file of an incident, as a collector yields it.

    Args:
        path: Relative to the step's directory, of names that the program made: letters, digits,
            ``.``, ``_`` and ``-``.
        body: Bytes, a stream of pieces of at most 1 MiB each, or a file for the copy engine.
        source: Where it comes from; ``None`` where the program made it.
        truncated: True if the collector already knows that this is not all there was. A stream
            says so by raising `Truncated` instead.
        media: ``text``, ``json``, ``jsonl`` or ``binary``: how to show it.
    """

    path: PurePosixPath
    body: Body
    source: SourceInfo | None = None
    truncated: bool = False
    media: str = "text"


class Truncated(Exception):  # noqa: N818 - a signal from a stream, not an error
    """Raised by a stream in place of its end: what came so far is kept and marked truncated."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Method(enum.StrEnum):
    """How the bytes of an artifact reached the disk."""

    WRITE = "write"
    SPLICE = "splice"
    MMAP = "mmap"
    BOUNCE = "bounce"
    LINK = "link"


class ArtifactRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    One artifact as the manifest lists it.

    *path* is relative to the incident; *digest* is ``ALGORITHM:HEX`` where one exists; *direct* is
    False where the bytes went through the page cache, and *direct_reason* says why. *gate_reason* is
    why the gate slowed the copy down or held it, the first time of each. *read_s* is when its source was read, or
    began to be: light evidence is read long before it is written.
    """

    path: str
    size_bytes: int
    data_bytes: int
    read_s: float = 0.0
    media: str = "binary"
    source: str | None = None
    source_uid: int | None = None
    source_gid: int | None = None
    source_mode: int | None = None
    source_mtime_ns: int | None = None
    source_xattrs: dict[str, str] | None = None
    source_changed: bool = False
    digest: str | None = None
    truncated: bool = False
    truncated_reason: str | None = None
    sparse: bool = False
    method: Method = Method.WRITE
    method_reason: str | None = None
    direct: bool | None = None
    direct_reason: str | None = None
    duration_s: float = 0.0
    slow_downs: int = 0
    pauses: int = 0
    gate_reason: str | None = None
