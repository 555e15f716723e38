"""Where it crashed, in a line."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from collector.report.chain import where
from collector.report.story import Cause, Kept, LogLine, Story, Subject
from collector.report.traces import LIBDW, Backtraces, ThreadTrace, TraceFrame

STORY = Story(
    id="20261128T001933.000000Z-abcdef", state="complete", path="/a", pipeline="crash",
    at=datetime(2026, 11, 28, tzinfo=UTC), ended=None, host="h", kernel="6.18", subject=Subject(),
    cause=Cause(said="crash"), kept=Kept(files=1, size_bytes=1),
)  # fmt: skip


def chain(*functions: str, ended: str = "", signal: str = "SIGSEGV") -> str:
    """Return the chain of *functions*; those of the C library begin with ``libc:``."""
    frames = []
    for name in functions:
        module, _, function = name.rpartition(":")
        frames.append(TraceFrame(module=f"{module}.so.6" if module else "engine", offset="0x4", function=function))
    trace = Backtraces(by=LIBDW, threads=(ThreadTrace(tid=1, frames=tuple(frames), ended=ended),))
    cause = Cause(said="crash", signal=signal)
    return where(replace(STORY, trace=trace, cause=cause))[0]


def test_recursion_that_is_cut_off_is_not_counted_to_its_end() -> None:
    """A stack overflow has more frames than are unwound."""
    assert chain("leaf", *["walk"] * 9, ended="only the innermost") == "leaf (engine) < walk \u00d79 or more"
    assert chain("leaf", *["walk"] * 9) == "leaf (engine) < walk \u00d79"
    assert chain("leaf", *["walk"] * 9, "main", ended="lost") == "leaf (engine) < walk \u00d79 < main < \u2026"


def test_signal_that_a_program_sends_itself_begins_where_it_does_so() -> None:
    raised = ("libc:__pthread_kill_implementation", "libc:raise", "check", "main")
    assert chain(*raised, signal="SIGQUIT") == "raise (libc.so.6) < check (engine) < main"
    assert chain("libc:strlen", "libc:puts", "check") == "strlen (libc.so.6) < puts < check (engine)"


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("RIP: 0010:engine_poll+0x24/0x90 [engine_drv]", "engine_poll+0x24/0x90 [engine_drv]"),
        ("pc : engine_poll+0x24/0x90", "engine_poll+0x24/0x90"),
        ("RIP: 0033:0x7f0000001234", ""),
    ],
)
def test_kernel_fault_is_where_the_kernel_was(line: str, place: str) -> None:
    lines = ("RIP: 0010:earlier+0x1/0x2", "BUG: kernel NULL pointer dereference", "Oops: 0000 [#1] SMP", line)
    told = tuple(LogLine(at=None, text=text, matters=text.startswith("BUG")) for text in lines)
    for event, found in (("oops", place), ("oom_kill", "")):
        told_of = replace(STORY, kernel_lines=told, cause=Cause(said="crash", event=event))
        assert where(told_of)[0] == found
