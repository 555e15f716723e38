"""How to copy, what the gate says meanwhile, and what a copy says of itself."""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

from collector.model.artifact import Method
from collector.model.units import Bytes, Rate


class MethodChoice(enum.StrEnum):
    """What may be asked of the engine; ``auto`` decides and records why."""

    AUTO = "auto"
    SPLICE = "splice"
    MMAP = "mmap"
    BOUNCE = "bounce"


class Digest(enum.StrEnum):
    """A digest computed beside the copy."""

    NONE = "none"
    XXH3_128 = "xxh3_128"
    SHA256 = "sha256"


class CopySettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    How bulk data is copied.

    Args:
        method: ``splice`` (least CPU: the pages themselves are handed over), ``mmap`` (written from a
            mapping), ``bounce`` (digest computed on the bytes that are written), or ``auto``, which
            decides and records why.
        rate: ``adaptive`` yields to other writers of the disk, ``max`` does not; a size per second
            such as ``200MiB/s`` is an upper bound, below which it yields as ``adaptive`` does.
        chunk_bytes: Length of one write; all writers together have 4 MiB. Longer chunks make other
            writers of the disk wait longer.
        writers: Number of writes in flight.
        digest: Digest computed during a copy; ``none`` leaves it to sealing.
    """

    method: MethodChoice = MethodChoice.AUTO
    rate: Rate = "adaptive"
    chunk_bytes: Annotated[Bytes, msgspec.Meta(ge=64 << 10, le=4 << 20)] = msgspec.field(
        name="chunk", default=Bytes(1 << 20)
    )
    writers: Annotated[int, msgspec.Meta(ge=1, le=4)] = 2
    digest: Digest = Digest.NONE


class Advice(enum.StrEnum):
    """The gate's answer between chunks: *slow* is one write at a time and half the rate, *trickle* a few MiB/s."""

    GO = "go"
    SLOW = "slow"
    TRICKLE = "trickle"
    PAUSE = "pause"
    STOP = "stop"


class Feedback(msgspec.Struct, frozen=True):
    """Advice and its reason."""

    advice: Advice
    reason: str = ""


class CopyReport(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a copy says of itself. Bytes and seconds.

    *size_bytes* is the length of the file written, *data_bytes* what was copied into it (the rest
    is holes). *changed* is True if size or mtime of the source moved meanwhile: the copy is then
    not a snapshot of one moment. *gate_reason* is why the gate slowed it down or held it, the first
    time of each.
    """

    size_bytes: int
    data_bytes: int
    extents: int
    method: Method
    method_reason: str
    direct: bool
    direct_reason: str
    chunk_bytes: int
    writers: int
    seconds: float
    cpu_seconds: float
    digest: str | None = None
    changed: bool = False
    truncated: bool = False
    truncated_reason: str | None = None
    pauses: int = 0
    slow_downs: int = 0
    gate_reason: str | None = None
    notes: tuple[str, ...] = ()
