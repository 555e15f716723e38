"""A backtrace in a line: the function that crashed < its caller, without what is the same in every program."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from collector.report.kernel_words import KERNEL_FAULTS, kernel_place
from collector.report.story import Story
from collector.report.text import ELLIPSIS, fitted
from collector.report.traces import LIBDW, ThreadTrace, TraceFrame

SEPARATOR = " · "
TIMES = "\u00d7"
NAME_SHOWN = 60
"""Columns of a function's name: those of C++ may take hundreds."""

PLACE_SHOWN = 30
BEGINNING = frozenset(
    {"_start", "__libc_start_call_main", "__libc_start_main", "__libc_start_main_impl", "start_thread", "clone",
     "clone3", "__clone", "__clone3", "__GI___clone", "__GI___clone3"}
)  # fmt: skip
"""What calls main, or a thread's function."""

CALLING = ("std::__invoke", "std::thread::")
"""Parts of the names of what std::thread calls a function through."""

ABORTING = ("libc.so.", "libc-", "libpthread", "libstdc++", "libc++", "libgcc_s")
"""Beginnings of the names of modules between what decided to abort and the signal."""

RAISING = frozenset(
    {"__pthread_kill_implementation", "__pthread_kill_internal", "raise", "__GI_raise", "kill", "__kill"}
)
"""Where a signal arrives that a program sends to itself, other than by what it did."""


def where(story: Story) -> tuple[str, str]:
    """
    Return two texts.

    Returns:
        The chain of the crashed thread, or where the kernel was if the fault is its own; how many threads there were,
        and how the chain was found if not by libdw.
    """
    threads = f"{story.threads} threads" if story.threads > 1 else ""
    if story.trace is None or not story.trace.threads:
        return kernel_place(story.kernel_lines) if story.cause.event in KERNEL_FAULTS else "", threads
    by = "" if story.trace.by == LIBDW else story.trace.by
    thread = story.trace.threads[0]
    raised = story.cause.signal == "SIGABRT" or (thread.frames and thread.frames[0].function in RAISING)
    chain = _chain(thread, raised=bool(raised))
    return chain, SEPARATOR.join(filter(None, (threads, by)))


def _chain(thread: ThreadTrace, *, raised: bool) -> str:
    parts: list[str] = []
    module = ""
    frames = _interesting(thread.frames, raised=raised)
    end = ELLIPSIS if thread.ended else ""
    for _, same in groupby(frames, key=_place):
        found = list(same)
        times = f" {TIMES}{len(found)}" if len(found) > 1 else ""
        if times and end and found[-1] is frames[-1]:
            times, end = f"{times} or more", ""
        parts.append(_text(found[0], with_module=found[0].module != module) + times)
        module = found[0].module
    return " < ".join(filter(None, [*parts, end]))


def _interesting(frames: Sequence[TraceFrame], *, raised: bool) -> Sequence[TraceFrame]:
    """Leave out what calls main, and of those by which a program signals itself all but the one that it called."""
    end = next((number for number, frame in enumerate(frames) if number and _is_beginning(frame)), len(frames))
    begin = 0
    if raised:
        own = (number for number, frame in enumerate(frames) if not frame.module.startswith(ABORTING))
        begin = max(0, next(own, 0) - 1)
    return frames[begin:end]


def _is_beginning(frame: TraceFrame) -> bool:
    return frame.function in BEGINNING or any(part in frame.function for part in CALLING)


def _place(frame: TraceFrame) -> tuple[str, str]:
    """What a frame is folded by: calls of one function return to several places in it."""
    return frame.module, frame.function or frame.offset


def _text(frame: TraceFrame, *, with_module: bool) -> str:
    module = fitted(frame.module, PLACE_SHOWN)
    if not frame.function:
        return f"{module}+{frame.offset}" if module else frame.offset
    name = fitted(frame.function.removeprefix("__GI_"), NAME_SHOWN)
    source = fitted(frame.source.rpartition("/")[2], PLACE_SHOWN)
    place = source or (module if with_module else "")
    return f"{name} ({place})" if place else name
