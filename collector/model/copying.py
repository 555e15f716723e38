"""Settings of a copy, the gate's advice during it, and its report."""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

from collector.model.artifact import CopyResult
from collector.model.units import Bytes, Rate


class MethodChoice(enum.StrEnum):
    """How the engine may be told to copy; ``auto`` chooses and records why."""

    AUTO = "auto"
    SPLICE = "splice"
    MMAP = "mmap"
    BOUNCE = "bounce"


class Digest(enum.StrEnum):
    """A digest computed during the copy."""

    NONE = "none"
    XXH3_128 = "xxh3_128"
    SHA256 = "sha256"


class CopySettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    How bulk data is copied.

    Args:
        method: ``splice`` (hands the pages themselves over), ``mmap`` (writes from a mapping; least CPU on
            huge pages), ``bounce`` (digest computed on the bytes that are written), or ``auto``, which
            decides and records why.
        rate: ``adaptive`` yields to other writers of the disk, ``max`` does not; a size per second
            such as ``200MiB/s`` is an upper bound, for streamed artifacts too, below which it yields as
            ``adaptive`` does.
        chunk_bytes: Length of one write, cut to 4 MiB for all writers together. Longer chunks make other
            writers of the disk wait longer.
        writers: Writes in flight.
        digest: Digest computed beside a copy; ``none`` leaves it to sealing.
    """

    method: MethodChoice = MethodChoice.AUTO
    rate: Rate = "adaptive"
    chunk_bytes: Annotated[Bytes, msgspec.Meta(ge=64 << 10, le=4 << 20)] = msgspec.field(
        name="chunk", default=Bytes(1 << 20)
    )
    writers: Annotated[int, msgspec.Meta(ge=1, le=4)] = 2
    digest: Digest = Digest.NONE


class Advice(enum.StrEnum):
    """The gate's advice between chunks: *slow* is one write at a time at half the rate, *trickle* a few MiB/s."""

    GO = "go"
    SLOW = "slow"
    TRICKLE = "trickle"
    PAUSE = "pause"
    STOP = "stop"


class Feedback(msgspec.Struct, frozen=True):
    """The gate's advice and its reason."""

    advice: Advice
    reason: str = ""


class CopyReport(CopyResult, frozen=True, kw_only=True):
    """
    A copy's report, in bytes and seconds.

    *changed*: the source's size or mtime changed meanwhile, so the copy is not a snapshot of one moment.
    """

    extents: int = 0
    chunk_bytes: int = 0
    writers: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    changed: bool = False
    notes: tuple[str, ...] = ()
