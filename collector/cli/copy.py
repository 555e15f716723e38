"""``collector copy``: the copy engine as a command."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from collector.cli.options import json_option
from collector.cli.signals import heeded
from collector.cli.text import escape_name, size
from collector.copying import engine
from collector.copying.open_source import open_source
from collector.copying.rate.throttle import ignore
from collector.host import process
from collector.host.files import describe
from collector.model.artifact import SourceInfo
from collector.model.copying import Advice, CopyReport, CopySettings, Digest, Feedback, MethodChoice
from collector.model.errors import CopyError, SignalError, StepError, UsageError
from collector.model.units import Bytes, Rate, parse_bytes, parse_rate

INCOMPLETE = 3
LEAST_CHUNK, LARGEST_CHUNK = 64 << 10, 4 << 20
NICE = 10


@click.command("copy")
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@click.option(
    "--method",
    type=click.Choice([str(choice) for choice in MethodChoice]),
    default=MethodChoice.AUTO.value,
    help="splice costs least; bounce digests the very bytes that it writes; auto decides [auto].",
)
@click.option("--rate", metavar="RATE", default="adaptive", help="adaptive, max, or such as 200MiB/s [adaptive].")
@click.option(
    "--digest",
    type=click.Choice([str(choice) for choice in Digest]),
    default=Digest.NONE.value,
    help="Of the bytes written [none].",
)
@click.option("--chunk", metavar="SIZE", default="1MiB", help="Size of a write [1MiB].")
@click.option("--writers", metavar="N", type=click.IntRange(1, 4), default=2, help="Writes in flight, 1 to 4 [2].")
@json_option
def copy_command(
    *, source: str, destination: str, method: str, rate: str, digest: str, chunk: str, writers: int, as_json: bool
) -> int:
    """
    Copy one file from memory to a disk without touching the page cache.

    SRC is a regular file, best on tmpfs, or /proc/PID/fd/N. DST is a new file, or a directory. Holes
    stay holes. Ctrl-C, SIGTERM and SIGHUP end it at the next chunk and leave nothing behind. Exit
    status 3 if not all of it could be copied.
    """
    settings = CopySettings(
        method=MethodChoice(method),
        rate=_rate(rate),
        chunk_bytes=_chunk(chunk),
        writers=writers,
        digest=Digest(digest),
    )
    if settings.rate != "max":  # as the daemon's workers: whoever needs the processors or the disk goes first
        process.set_io_class("idle")
        os.nice(NICE)
    with ExitStack() as stack:
        source_fd = _open(source)
        stack.callback(os.close, source_fd)
        directory_fd, name = _target(source, destination)
        stack.callback(os.close, directory_fd)
        info = describe(source_fd, escape_name(source), xattrs="")
        with _progress(name, source_fd, quiet=as_json) as draw, _interrupts() as heed:

            def progress(copied: int) -> None:
                heed()
                draw(copied)

            with _naming(destination):
                report = engine.copy(
                    source_fd, directory_fd=directory_fd, name=name, settings=settings, ask=heed, progress=progress
                )
            os.fsync(directory_fd)
    _tell(report, info, as_json=as_json)
    return INCOMPLETE if report.truncated else 0


@contextmanager
def _naming(destination: str) -> Iterator[None]:
    """Say of which destination an error speaks: the engine knows but a name in a directory."""
    try:
        yield
    except CopyError as exc:
        raise CopyError(f"{escape_name(destination)}: {exc}", hint=exc.hint, errno=exc.errno) from exc


def _rate(text: str) -> Rate:
    try:
        return parse_rate(text)
    except ValueError as exc:
        raise UsageError(str(exc)) from exc


def _chunk(text: str) -> Bytes:
    try:
        chunk = parse_bytes(text)
    except ValueError as exc:
        raise UsageError(str(exc)) from exc
    if not LEAST_CHUNK <= chunk <= LARGEST_CHUNK:
        raise UsageError(f"a chunk of {text}", hint=f"{size(LEAST_CHUNK)} to {size(LARGEST_CHUNK)}")
    return chunk


def _open(source: str) -> int:
    try:
        return open_source(source)
    except PermissionError:
        raise
    except StepError as exc:
        raise UsageError(str(exc), hint=exc.hint) from exc
    except OSError as exc:
        hint = "SRC is a regular file, or /proc/PID/fd/N"
        raise UsageError(f"cannot open {escape_name(source)}: {exc.strerror}", hint=hint) from exc


def _target(source: str, destination: str) -> tuple[int, str]:
    """Open the directory that DST means; return it and the name in it."""
    if os.path.isdir(destination):
        destination = os.path.join(destination, os.path.basename(source))
    directory, name = os.path.split(destination)
    if not name:
        raise UsageError(f"{escape_name(destination)} names no file")
    try:
        return os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), name
    except PermissionError:
        raise
    except OSError as exc:
        raise CopyError(f"cannot open {escape_name(directory)}: {exc.strerror}", errno=exc.errno) from exc


@contextmanager
def _interrupts() -> Iterator[Callable[[], Feedback]]:
    """
    Let a signal end the copy between two chunks; yield what the engine asks there.

    A signal is only noted when it comes: raised there, it could hit the engine while it creates or
    removes its file. One that comes after the last chunk is too late: the copy is whole, its status 0.
    """
    noted: list[int] = []

    def heed() -> Feedback:
        if noted:
            name = signal.Signals(noted[0]).name
            raise SignalError(f"ended by {name}: nothing is left of the copy", number=noted[0])
        return Feedback(Advice.GO)

    # What became of the copy is settled then: no later signal may give it another status, or cut short what is said.
    with heeded(noted.append, afterwards=signal.SIG_IGN):
        yield heed


@contextmanager
def _progress(name: str, source_fd: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Draw a bar with rate and ETA on a terminal; nothing in a pipe or beside JSON."""
    if quiet or not sys.stderr.isatty():
        yield ignore
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(binary_units=True))
    bar = Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=Console(stderr=True))
    status = os.fstat(source_fd)
    task = bar.add_task(escape_name(name), total=min(status.st_size, status.st_blocks * 512))
    bar.start()
    try:
        yield lambda copied: bar.update(task, completed=copied)
    finally:
        with suppress(OSError):  # a terminal that hung up takes no last line, and that is not the copy's failure
            bar.stop()


def _tell(report: CopyReport, source: SourceInfo, *, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode({**msgspec.to_builtins(report), "source": source}))
        return
    rate = size(report.data_bytes / report.seconds) + "/s" if report.seconds else "-"
    click.echo(f"{size(report.size_bytes)}, {size(report.data_bytes)} of it data, in {report.seconds:.2f} s ({rate})")
    click.echo(f"{report.method} ({report.method_reason}); direct: {'yes' if report.direct else report.direct_reason}")
    if report.digest:
        click.echo(report.digest)
    for note in report.notes:
        click.echo(note)
    if report.changed:
        click.echo("warning: the source changed while it was copied; this is no snapshot of one moment", err=True)
    if report.truncated:
        click.echo(f"warning: truncated: {report.truncated_reason}", err=True)
