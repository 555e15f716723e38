"""Backtraces, as they are shown and as ``--json`` has them."""

from __future__ import annotations

import msgspec

LIBDW = "libdw"
ARCHIVED = "frames archived with the crash"
REGISTERS = "registers only"


class TraceFrame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    One frame; all text is escaped.

    *offset* counts from the beginning of *module*, in hexadecimal; it is the address itself if *module* is empty.
    *function* and *source* (``file:line``) are empty if not known. *inlined*: part of the frame that follows.
    """

    module: str
    offset: str
    function: str = ""
    source: str = ""
    inlined: bool = False


class ThreadTrace(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A thread, its innermost frame first; *ended* says why there are no more, if the beginning was not reached."""

    tid: int
    frames: tuple[TraceFrame, ...] = ()
    ended: str = ""


class Backtraces(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    The threads of a core, the crashed one first.

    *by* says how the frames were found: `LIBDW`, `ARCHIVED` or `REGISTERS`. *problem* says what is missing.
    """

    by: str
    threads: tuple[ThreadTrace, ...] = ()
    problem: str = ""
