"""Command lines and I/O counters, which a process can withhold by its own locks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

from collector.collectors.process_table.fields import WHOLE, number_after, optional, owner_in
from collector.host.files import Host
from collector.host.guarded_read import ExhaustedError, Guard, WedgedError
from collector.host.own_procfs import LIMIT_REASON, Procfs, WalkError, batches, fits
from collector.host.process_stat import read_stat
from collector.host.read_errors import ReadErrors
from collector.host.subordinates import owners
from collector.model.artifact import Truncated
from collector.model.redaction import Redaction
from collector.model.text import escape

COMMAND_COLUMNS = ("pid", "start_ticks", "read_bytes", "write_bytes", "args")
# Longer command lines are cut; the collector `process` keeps whole ones.
ARGS_LIMIT = 4096
# Processes per hand-over to the helper thread: 10,084 of them took 0.62 s of CPU one by one, 0.41 s in batches of 64 or
# of 512.
BATCH = 64


def commands(
    host: Host, redaction: Redaction, guard: Guard, unread: ReadErrors, remaining_s: Callable[[], float]
) -> Iterator[bytes]:
    """
    Yield command lines and I/O counters, which can only be read under the process's own locks.

    A process that holds them costs one deadline and its own line; the stream then ends with `Truncated`. It does so
    too when the step's time is nearly used up, before the worker is killed. Of a user who has several such processes,
    no further ones are read.
    """
    yield "\t".join(COMMAND_COLUMNS).encode() + b"\n"
    if not fits(host, WHOLE):
        raise Truncated(f"command lines and I/O counters were not read, {LIMIT_REASON}")
    before = len(unread)
    try:
        users = owners(host)
        with closing(batches(host, most=WHOLE)) as found:
            for procfs, listed in found:
                read, owner = partial(_command, procfs, redaction), partial(owner_in, procfs, users)
                for at in range(0, len(listed), BATCH):
                    yield from _guarded(read, listed[at : at + BATCH], owner, guard, unread, remaining_s)
    except WalkError as exc:
        raise Truncated(str(exc)) from exc
    if stuck := len(unread) - before:
        raise Truncated(f"{stuck} processes were not read: they or others of their user hold their locks")


def _guarded(  # noqa: PLR0917 - what one batch needs
    read: Callable[[int], bytes | None],
    batch: list[int],
    owner: Callable[[int], str],
    guard: Guard,
    unread: ReadErrors,
    remaining_s: Callable[[], float],
) -> Iterator[bytes]:
    """Yield the lines of *batch*; record in *unread* a process that holds its locks, and those not read for that."""
    while batch:
        if guard.gave_up:
            batch = list(_permitted(batch, owner, guard, unread))
        if remaining_s() < guard.longest_s:
            raise Truncated("the step's time was used up")
        lines: list[bytes | None] = []
        try:
            guard.call_many(read, batch, lines)
        except ExhaustedError as exc:
            raise Truncated(str(exc)) from exc
        except WedgedError as exc:
            for pid in batch[len(lines) : len(lines) + 1]:
                guard.blame(owner(pid))
                unread.add(f"/proc/{pid}/cmdline", exc, owner(pid))
                lines.append(None)
        yield from (line for line in lines if line is not None)
        batch = batch[len(lines) :]


def _permitted(batch: list[int], owner: Callable[[int], str], guard: Guard, unread: ReadErrors) -> Iterator[int]:
    for pid in batch:
        if guard.may_read(owner(pid)):
            yield pid
        else:
            why = f"not tried: other processes of {owner(pid)} hold their locks"
            unread.add(f"/proc/{pid}/cmdline", why, owner(pid))


def _command(procfs: Procfs, redaction: Redaction, pid: int) -> bytes | None:
    """Return a process's line; ``None`` if it has ended."""
    try:
        with procfs.process(pid) as process:
            start_ticks = read_stat(process).start_ticks
            raw = optional(process, "cmdline", ARGS_LIMIT)
            counters = optional(process, "io")
    except (OSError, ValueError):
        return None
    words = raw.rstrip(b"\0").split(b"\0") if raw else []
    args = escape(b" ".join(redaction.arguments(words)))
    fields = (
        str(pid),
        str(start_ticks),
        number_after(counters, b"\nread_bytes:"),
        number_after(counters, b"\nwrite_bytes:"),
        args,
    )
    return "\t".join(fields).encode() + b"\n"
