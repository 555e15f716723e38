"""Frames as they were archived with the crash: by the collector's own unwinder, without names."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from collector.model.text import printable
from collector.report.traces import ThreadTrace, TraceFrame


def archived_frame(text: str) -> TraceFrame:
    """Return ``module+0xoffset``, or an address, as a frame."""
    module, _, offset = printable(text).rpartition("+")
    return TraceFrame(module=module, offset=offset)


def continued(trace: ThreadTrace, archived: Sequence[TraceFrame], ended: str) -> ThreadTrace:
    """
    Return a backtrace that ended early with the frames that follow in the archived one.

    The two have to agree as far as *trace* goes; if they do not, or the archived one is no longer, it is *trace*.

    Args:
        trace: By libdw.
        archived: The frames of the same thread, the innermost first.
        ended: Why there are no more of these; empty if they reach the beginning.
    """
    known = [_place(frame) for frame in trace.frames if not frame.inlined]
    more = archived[len(known) :]
    if not trace.ended or not known or not more or known != [_place(frame) for frame in archived[: len(known)]]:
        return trace
    return msgspec.structs.replace(trace, frames=(*trace.frames, *more), ended=printable(ended))


def _place(frame: TraceFrame) -> tuple[str, str]:
    return frame.module, frame.offset
