"""``collector status --watch``: the last minute of the flight recorder, refreshed each second."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import NoReturn

import click

from collector.cli.text import size
from collector.daemon.messages import Watched
from collector.daemon.requests import watched_of
from collector.host.disk_counters import disk_name
from collector.host.procfs import PAGE_BYTES
from collector.model.errors import UsageError
from collector.model.recording import Second
from collector.model.text import escape
from collector.model.top_processes import TopProcess

BARS = "▁▂▃▄▅▆▇█"
SHOWN = 5
CLEAR = "\x1b[H\x1b[J"
SECTOR = 512


def watch(directory: str) -> NoReturn:
    """
    Show the last minute until Ctrl-C: a table on a terminal, a line per second in a pipe.

    Args:
        directory: The daemon's runtime directory.

    Raises:
        UsageError: If the flight recorder is off.
        CollectorError: If no daemon answers; the class says why.
    """
    live = sys.stdout.isatty()
    since_s, before = 0.0, None
    while True:
        watched = watched_of(directory, 0.0 if live else since_s)
        if not watched.columns:
            raise UsageError("the flight recorder is off", hint="set recorder.keep, and restart the daemon")
        if live:
            click.echo(CLEAR + "\n".join(table(watched)))
        else:
            for second in watched.seconds if since_s else watched.seconds[-1:]:
                click.echo(line(before, second))
                before = second
            sys.stdout.flush()
        since_s = max((second.at_s for second in watched.seconds), default=since_s)
        time.sleep(max(1.0, watched.period_s))


def figure(second: Second, name: str) -> float:
    """Return a figure; 0 for what the kernel does not have."""
    return second.figure(name) or 0


def rate(before: Second | None, second: Second, name: str) -> float:
    """Return by how much a counter rose per second."""
    if before is None:
        return 0.0
    passed_s = second.at_s - before.at_s
    return max(0.0, figure(second, name) - figure(before, name)) / passed_s if passed_s > 0 else 0.0


def stalled(before: Second | None, second: Second, resource: str) -> float:
    """Return the share of the time, in percent, in which some task stalled."""
    return rate(before, second, f"psi_{resource}_some") / 10_000


def reclaimed(before: Second | None, second: Second) -> float:
    """Return the bytes per second that were reclaimed."""
    return PAGE_BYTES * sum(rate(before, second, f"pgsteal_{who}") for who in ("direct", "kswapd"))


def disks(before: Second | None, second: Second) -> Iterator[str]:
    """Yield what each disk does: bytes per second and requests in flight."""
    known = {disk.number: disk for disk in before.disks} if before else {}
    passed_s = second.at_s - before.at_s if before else 0.0
    for disk in second.disks:
        old = known.get(disk.number, disk)
        read, written = (
            SECTOR * max(0, now - then) for now, then in ((disk.read, old.read), (disk.written, old.written))
        )
        per_s = 1 / passed_s if passed_s > 0 else 0.0
        name = disk_name(disk.number) or disk.number
        yield f"{name} r {size(round(read * per_s))}/s w {size(round(written * per_s))}/s q {disk.in_flight}"


def line(before: Second | None, second: Second) -> str:
    """Return one second as a line."""
    return "  ".join(
        (
            f"{second.at_s:.1f}",
            f"available {size(int(figure(second, 'mem_available')))}",
            f"shmem {size(int(figure(second, 'shmem')))}",
            f"stalled mem {stalled(before, second, 'memory'):.1f}% io {stalled(before, second, 'io'):.1f}%"
            f" cpu {stalled(before, second, 'cpu'):.1f}%",
            f"allocstall {rate(before, second, 'allocstall'):.0f}/s",
            f"reclaim {size(round(reclaimed(before, second)))}/s",
            f"load {figure(second, 'load1'):.2f}",
            *disks(before, second),
        )
    )


def bars(values: Sequence[float], highest: float = 0.0) -> str:
    """Return a sparkline of *values*, whose top is the largest of them, or *highest*."""
    top = max([*values, highest])
    return "".join(BARS[min(len(BARS) - 1, int(value / top * len(BARS)))] if top > 0 else BARS[0] for value in values)


def table(watched: Watched) -> Iterator[str]:
    """Yield the lines of the table: each figure now, and its last minute."""
    rows = watched.seconds
    pairs = list(zip((None, *rows), rows, strict=False))
    if not pairs:
        yield "nothing was recorded yet"
        return
    last = pairs[-1]

    def plain(name: str) -> list[float]:
        return [figure(row, name) for row in rows]

    stalls = {name: [stalled(*pair, name) for pair in pairs] for name in ("memory", "io", "cpu")}
    yield f"{'available':<12}{size(int(plain('mem_available')[-1])):>12}  {bars(plain('mem_available'))}"
    yield f"{'shmem':<12}{size(int(plain('shmem')[-1])):>12}  {bars(plain('shmem'))}"
    for name, values in stalls.items():
        yield f"{'stalled ' + name:<15}{values[-1]:>8.1f}%  {bars(values, 100.0)}"
    allocstalls = [rate(*pair, "allocstall") for pair in pairs]
    yield f"{'allocstall':<12}{allocstalls[-1]:>10.0f}/s  {bars(allocstalls)}"
    reclaim = [reclaimed(*pair) for pair in pairs]
    yield f"{'reclaim':<12}{size(round(reclaim[-1])):>10}/s  {bars(reclaim)}"
    yield f"{'load':<12}{plain('load1')[-1]:>12.2f}  {bars(plain('load1'))}"
    yield from (f"disk        {disk}" for disk in disks(*last))
    if watched.top is not None:
        yield from top("by memory", watched.top.by_memory)
        yield from top("by CPU", watched.top.by_cpu)


def top(title: str, processes: Sequence[TopProcess]) -> Iterator[str]:
    yield f"largest {title}, in the last round:"
    for one in processes[:SHOWN]:
        cpu = "?" if one.cpu is None else f"{one.cpu / 10:.1f}%"
        yield f"  {one.pid:>8} {escape(one.comm):<16} {size(one.rss_bytes):>10} {cpu:>7}"
