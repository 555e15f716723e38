"""
The names of a crash: one that is the same whenever the same build dies in the same place, and one that links builds.

Both are plain text, made without symbols.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import xxhash

from collector.collectors.core.frames import END, LIMIT, MAX_FRAMES, Frame, Walk
from collector.collectors.core.notes import SENT, CoreSignal

FRAMES, MAX_ABORT_FRAMES = 5, 16
VERSION = "sig1:"
RUNTIME = re.compile(rb"/(?:libc|libpthread|ld|ld-linux[^/]*|ld-musl[^/]*|libstdc\+\+|libgcc_s|libc\+\+abi)[-.][^/]*$")
"""The C and C++ runtime: who calls abort() or memcpy() is to blame, not these."""

VDSO = b"[vdso]"
HANDLED = frozenset({4, 5, 6, 7, 8, 11, 31})
"""ILL, TRAP, ABRT, BUS, FPE, SEGV, SYS: where the handler of one of these raises again, the first one is the crash."""

SIGABRT = 6
MAX_HANDLER_FRAMES = 32
COARSE_FRAMES = 3
TELLING_BYTES, TELLING_ABORT_BYTES = 16, 33
"""
Of functions that are shorter there are many alike, and their callers are named, too. What calls abort() is a part of
its own, which gcc sets apart: 5 or 6 bytes, 32 for an assertion.
"""
BEFORE_RECURSION = 16
"""Frames that another function may have on top of it."""


class Signature(NamedTuple):
    """
    The names of a crash.

    *hash* is of *text*: signal and class, then frames as build-id and offset. *key* is coarse. *reason* says why there
    is none, or why it says less than it could.
    """

    hash: str = ""
    text: str = ""
    key: str = ""
    reason: str = ""


def signature_of(signal: CoreSignal | None, program: str, walk: Walk, *, overflow: bool = False) -> Signature:
    """
    Name a crash.

    Args:
        signal: What it died of.
        program: The name of the program.
        walk: The frames of the thread that crashed.
        overflow: It died at the end of its stack.
    """
    if signal is None:
        return Signature(reason="its signal is not known")
    cycle = _recursion(walk.frames) if overflow else ()
    telling = cycle or _telling(signal, walk.frames)
    if not _tells(signal, telling, walk):
        return Signature(reason=f"no frame tells where it was: {walk.end}")
    first = telling[: _length(signal, telling)]
    text = "|".join((f"{signal.name}/{_code_class(signal)}", *(["recursion"] if cycle else ()), *map(_named, first)))
    place = _coarse(signal, telling)
    key = "|".join((program.replace("|", "_"), signal.name, place)) if place else ""
    return Signature(VERSION + xxhash.xxh3_128_hexdigest(text.encode()), text, key, _reason(first, walk))


def _reason(telling: Sequence[Frame], walk: Walk) -> str:
    """Return why a signature says less than it could."""
    if len(telling) < FRAMES and walk.end not in {END, LIMIT}:
        return f"it has {len(telling)} frames: {walk.end}"
    if any(frame.module is not None and not frame.module.build_id for frame in telling):
        return "a build-id is not in the core: the module's name stands in its place"
    if any(frame.module is None and frame.in_code for frame in telling):
        return "some of its code is in no file: other places in it look the same"
    return ""


def _tells(signal: CoreSignal, telling: Sequence[Frame], walk: Walk) -> bool:
    """
    Return whether the frames tell this crash from others.

    Without a stack there is but the first frame: of all aborts the same one, in raise().
    """
    only_raise = signal.name == "SIGABRT" and signal.code in SENT and len(walk.frames) == 1 and walk.end != END
    return not only_raise and any(frame.module is not None for frame in telling)


def _length(signal: CoreSignal, telling: Sequence[Frame]) -> int:
    """
    Return how many frames are named.

    Those that end in a call which does not return are on the way to abort(), and do not count: a panic of Rust has a
    dozen frames of its own, the same for all of a program, of which half end so.
    """
    if signal.name != "SIGABRT":
        return min(FRAMES, len(telling))
    counted = 0
    for at, frame in enumerate(telling[:MAX_ABORT_FRAMES]):
        counted += frame.function is None or frame.address != frame.function.start + frame.function.size
        if counted == FRAMES:
            return at + 1
    return min(MAX_ABORT_FRAMES, len(telling))


def _recursion(frames: Sequence[Frame]) -> Sequence[Frame]:
    """
    Return the frames of a recursion without end, once; none if it is not one.

    Where in it the stack ends differs from run to run; so the frames begin at the one with the lowest address.
    """
    deep = frames[BEFORE_RECURSION:]
    if len(frames) < MAX_FRAMES:
        return ()
    for period in range(1, len(deep) // 2 + 1):
        pairs = zip(deep, deep[period:], strict=False)
        if all(one.address == other.address for one, other in pairs):
            begin = min(range(period), key=lambda at: deep[at].address)
            return [*deep[begin:period], *deep[:begin]]
    return ()


def _telling(signal: CoreSignal, frames: Sequence[Frame]) -> Sequence[Frame]:
    """Return the frames from where it went wrong on: without those of a handler, of abort() and of raise()."""
    if signal.code not in SENT and signal.name != "SIGABRT":
        return frames
    handled = [at for at, frame in enumerate(frames[:MAX_HANDLER_FRAMES]) if frame.handled in HANDLED]
    begin = handled[-1] + 1 if handled else 0
    if not handled or frames[handled[-1]].handled == SIGABRT:
        while begin < len(frames) and _is_runtime(frames[begin]):
            begin += 1
    return frames[begin:]


def _is_runtime(frame: Frame) -> bool:
    return frame.module is not None and (frame.module.path == VDSO or RUNTIME.search(frame.module.path) is not None)


def _code_class(signal: CoreSignal) -> str:
    """Return ``MAPERR`` for ``SEGV_MAPERR``, ``SENT`` for whatever a process sent, else the number."""
    if signal.code in SENT:
        return "SENT"
    return signal.code_name.partition("_")[2] or str(signal.code)


def _named(frame: Frame) -> str:
    if frame.module is None:
        return "?"  # its address differs from run to run
    return f"{frame.module.build_id}+{frame.offset:#x}" if frame.module.build_id else _by_file(frame)


def _by_file(frame: Frame) -> str:
    return f"{frame.module.stable_name}+{frame.offset:#x}" if frame.module is not None else "?"


def _coarse(signal: CoreSignal, frames: Sequence[Frame]) -> str:
    """
    Return who is to blame: a module by name, and the offset within its function with that one's size, as in an oops.

    Another build moves functions; few of them change. The innermost frame is taken that is in code, and not in the
    runtime's: what a program passes to strlen() is its own bug.
    """
    telling = TELLING_ABORT_BYTES if signal.name == "SIGABRT" else TELLING_BYTES
    known = [frame for frame in frames if frame.module is not None and frame.in_code]
    names: list[str] = []
    for frame in ([frame for frame in known if not _is_runtime(frame)] or known)[:COARSE_FRAMES]:
        names.append(_by_function(frame))
        if frame.function is None or frame.function.size >= telling:
            break
    return "<".join(names)


def _by_function(frame: Frame) -> str:
    if frame.module is None or frame.function is None:
        return _by_file(frame)
    return f"{frame.module.stable_name}+{frame.address - frame.function.start:#x}/{frame.function.size:#x}"
