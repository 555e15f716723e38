"""``collector copy``: the copy engine as a command."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import click
import msgspec

from collector.cli.options import json_option, parsed
from collector.cli.signals import interruptible
from collector.cli.text import escape_name, size
from collector.copying import engine
from collector.copying.open_source import open_source
from collector.host import process
from collector.host.files import describe
from collector.model.artifact import SourceInfo
from collector.model.copying import Advice, CopyReport, CopySettings, Digest, Feedback, MethodChoice
from collector.model.errors import CopyError, StepError, UsageError
from collector.model.units import Bytes, parse_bytes, parse_rate

INCOMPLETE = 3
LEAST_CHUNK, LARGEST_CHUNK = 64 << 10, 4 << 20
NICE = 10
DRAW_S = 0.1
LABEL_WIDTH = 32


@click.command("copy")
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@click.option(
    "--method",
    type=click.Choice([str(choice) for choice in MethodChoice]),
    default=MethodChoice.AUTO.value,
    help="splice needs the least CPU (on huge pages: mmap); bounce digests what it writes; auto chooses [auto].",
)
@click.option(
    "--rate", metavar="RATE", default="adaptive", help="adaptive, max, or a limit such as 200MiB/s [adaptive]."
)
@click.option(
    "--digest",
    type=click.Choice([str(choice) for choice in Digest]),
    default=Digest.NONE.value,
    help="Digest of the bytes written [none].",
)
@click.option("--chunk", metavar="SIZE", default="1MiB", help="Bytes per write [1MiB].")
@click.option("--writers", metavar="N", type=click.IntRange(1, 4), default=2, help="Concurrent writes [2].")
@json_option
def copy_command(
    *, source: str, destination: str, method: str, rate: str, digest: str, chunk: str, writers: int, as_json: bool
) -> int:
    """
    Copy one file to a disk, bypassing the page cache.

    SRC is a regular file, usually on tmpfs, or /proc/PID/fd/N. DST is a new file or a directory. Holes
    stay holes. Ctrl-C, SIGTERM and SIGHUP end the copy at the next chunk and remove it. Exit status 3
    if the copy is truncated.
    """
    settings = CopySettings(
        method=MethodChoice(method),
        rate=parsed(parse_rate, rate),
        chunk_bytes=_chunk(chunk),
        writers=writers,
        digest=Digest(digest),
    )
    if settings.rate != "max":  # as the daemon's workers do: everybody else goes first
        process.set_io_class("idle")
        os.nice(NICE)
    with ExitStack() as stack:
        source_fd = _open(source)
        stack.callback(os.close, source_fd)
        directory_fd, name = _target(source, destination)
        stack.callback(os.close, directory_fd)
        info = describe(source_fd, escape_name(source), xattrs="")
        with (
            _progress(name, source_fd, quiet=as_json) as draw,
            interruptible("the unfinished copy was removed") as check,
        ):

            def ask() -> Feedback:
                check()
                return Feedback(Advice.GO)

            def progress(copied: int) -> None:
                check()
                draw(copied)

            try:
                report = engine.copy(
                    source_fd, directory_fd=directory_fd, name=name, settings=settings, ask=ask, progress=progress
                )
            except CopyError as exc:  # the engine only knows a name in a directory
                raise CopyError(f"{escape_name(destination)}: {exc}", hint=exc.hint, errno=exc.errno) from exc
            os.fsync(directory_fd)
    _print(report, info, as_json=as_json)
    return INCOMPLETE if report.truncated else 0


def _chunk(text: str) -> Bytes:
    chunk = parsed(parse_bytes, text)
    if not LEAST_CHUNK <= chunk <= LARGEST_CHUNK:
        raise UsageError(f"chunk size {text} is out of range", hint=f"{size(LEAST_CHUNK)} to {size(LARGEST_CHUNK)}")
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
    """Open the destination directory; return its descriptor and the name of the new file."""
    if os.path.isdir(destination):
        destination = os.path.join(destination, os.path.basename(source))
    directory, name = os.path.split(destination)
    if not name:
        raise UsageError(f"{escape_name(destination)} is not a file name")
    try:
        return os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), name
    except PermissionError:
        raise
    except OSError as exc:
        raise CopyError(f"cannot open {escape_name(directory)}: {exc.strerror}", errno=exc.errno) from exc


@contextmanager
def _progress(name: str, source_fd: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Draw a bar with rate and time left on a terminal; nothing in a pipe or beside JSON."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    status = os.fstat(source_fd)
    total = min(status.st_size, status.st_blocks * 512)
    began_s = drawn_s = time.monotonic()

    def figures(copied: int | None) -> str:
        rate = (copied or 0) / max(drawn_s - began_s, DRAW_S)
        return f"{size(copied or 0)} of {size(total)}, {size(rate)}/s"

    def draw(copied: int) -> None:
        nonlocal drawn_s
        if time.monotonic() - drawn_s >= DRAW_S or copied == total:
            drawn_s = time.monotonic()
            with suppress(OSError):  # the terminal hung up; that is not a failure of the copy
                bar.update(copied - bar.pos, copied)

    label = escape_name(name)[:LABEL_WIDTH]
    bar = click.progressbar(length=total, label=label, item_show_func=figures, file=sys.stderr)
    try:
        yield draw
    finally:
        with suppress(OSError):
            bar.render_finish()


def _print(report: CopyReport, source: SourceInfo, *, as_json: bool) -> None:
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
        click.echo("warning: the source changed during the copy, which is not a consistent snapshot", err=True)
    if report.truncated:
        click.echo(f"warning: truncated: {report.truncated_reason}", err=True)
