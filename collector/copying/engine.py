"""The copy of one regular file: planned, paced, written past the page cache, published whole."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable

from collector.copying.buffers import POOL_BYTES, lease
from collector.copying.hashing import Hasher
from collector.copying.plan import chunks
from collector.copying.rate.throttle import Steering, always_go, ignore, pace_for
from collector.copying.reader import Reader
from collector.copying.sink import KEPT, PAGE, Sink, failed
from collector.copying.source import Source, SourceError
from collector.copying.worth import Worth
from collector.copying.writers import Crew, Outcome
from collector.host import disk, filesystem
from collector.model.artifact import Method
from collector.model.copying import CopyReport, CopySettings, Digest, Feedback, MethodChoice
from collector.model.errors import CopyError
from collector.model.units import mib


def copy(
    source_fd: int,
    *,
    directory_fd: int,
    name: str,
    settings: CopySettings,
    offset: int = 0,
    limit_bytes: int | None = None,
    room_bytes: int | None = None,
    ask: Callable[[], Feedback] = always_go,
    progress: Callable[[int], None] = ignore,
) -> CopyReport:
    """
    Copy an open regular file to *name*, holes and all, without page cache, and sync it.

    Args:
        source_fd: Open for reading; stays the caller's.
        directory_fd: Of the destination; syncing it stays the caller's.
        name: Of the destination in that directory; ``NAME.part`` meanwhile, mode 0600.
        settings: Method, rate, chunk, writers, digest.
        offset: First byte to copy; a multiple of 4096.
        limit_bytes: Most bytes to copy; the copy is then marked truncated.
        room_bytes: Most bytes that it may take on the disk; a copy that needs more is refused whole.
        ask: Advice between chunks, at most every 50 ms; calls come one at a time, from any writer.
        progress: Told the data bytes copied so far, in the same way.

    Returns:
        What became of it. After STOP, or a source that shrank, or ENOSPC, EDQUOT or EIO midway: the
        whole chunks up to there, *truncated*, with the reason.

    Raises:
        CopyError: If nothing could be copied; nothing is left behind.
    """
    started, cpu = time.monotonic(), time.process_time()
    source = Source(source_fd, offset, limit_bytes)
    with Sink(directory_fd, name) as sink:
        method, why = choose(settings, source, sink)
        pace = pace_for(settings.rate, os.fstat(directory_fd).st_dev)
        steering = Steering(pace=pace, ask=ask, flush=sink.flush, flushes=sink.flushes)
        hasher = Hasher(settings.digest) if settings.digest is not Digest.NONE else None
        chunk = chunk_size(settings, sink.align)
        worth = Worth(source, sink)
        if room_bytes is not None:
            _require_room(worth, room_bytes)
        sink.reserve((extent for extent, _ in worth), shift=source.start, size=source.size)
        plan = chunks(worth, size=chunk, align=sink.align)
        reading = Steering(pace=pace_for(settings.rate, source.status.st_dev, reading=True))
        with lease(settings.writers, chunk) as buffers, Reader(source, reading) as reader:
            outcome = Crew(
                source=source,
                reader=reader,
                sink=sink,
                plan=plan,
                method=method,
                steering=steering,
                hasher=hasher,
                progress=progress,
            ).run(buffers)
        _give_up_on(outcome, name)
        failing = outcome.error is not None and not isinstance(outcome.error, SourceError)
        sink.publish(outcome.end - source.start, failing=failing)
        return CopyReport(
            size_bytes=outcome.end - source.start,
            data_bytes=outcome.data_bytes,
            extents=outcome.extents,
            method=method,
            method_reason=why,
            direct=sink.direct,
            direct_reason=sink.direct_reason,
            chunk_bytes=chunk,
            writers=settings.writers,
            seconds=time.monotonic() - started,
            cpu_seconds=time.process_time() - cpu,
            digest=hasher.text() if hasher and outcome.error is None else None,
            changed=source.changed(),
            truncated=outcome.reason is not None or source.cut,
            truncated_reason=outcome.reason or (f"limited to {limit_bytes} bytes" if source.cut else None),
            pauses=steering.pauses,
            slow_downs=steering.slow_downs + reading.slow_downs,
            gate_reason=steering.gate_reason,
            notes=tuple(notes(outcome)),
        )


def chunk_size(settings: CopySettings, align: int) -> int:
    """Return the chunk that was asked for, as a multiple of *align* that the buffers have room for."""
    room = min(settings.chunk_bytes, POOL_BYTES // settings.writers)
    return max(align, room // align * align)


def choose(settings: CopySettings, source: Source, sink: Sink) -> tuple[Method, str]:
    """Choose between handing over pages, mapping and reading; return the choice and its reason."""
    if source.kind != filesystem.TMPFS:
        return Method.BOUNCE, f"a source on {source.kind} is read past the page cache"
    if sink.align > PAGE:
        return Method.BOUNCE, f"the destination takes blocks of {sink.align} bytes, more than a page"
    if settings.digest is not Digest.NONE:
        return Method.BOUNCE, "a digest is computed beside the copy"
    if settings.method is not MethodChoice.AUTO:
        return Method(settings.method), "as configured"
    if sink.kind in (filesystem.BTRFS, filesystem.OVERLAY) or disk.needs_stable_pages(sink.device):
        return Method.BOUNCE, f"{sink.kind} or its disk must not see pages change under a write"
    return Method.SPLICE, "pages of tmpfs go to the disk as they are"


def notes(outcome: Outcome) -> Iterable[str]:
    """Yield what the report has no field for."""
    if outcome.fallbacks:
        yield f"{outcome.fallbacks} chunks went through the buffer: the source changed, or the disk takes no pages"


def _require_room(worth: Worth, room_bytes: int) -> None:
    """Look before anything is reserved: the gate, asked between chunks, would find the reserve gone."""
    needed = sum(extent.end - extent.start for extent, _ in worth)
    if needed > room_bytes:
        raise CopyError(
            f"its {mib(needed)} do not fit: the disk has {mib(room_bytes)} free above its reserve", errno=errno.ENOSPC
        )


def _failed(exc: OSError, name: str) -> CopyError:
    if isinstance(exc, SourceError):
        return failed(exc, f"cannot read the source of {name!r}")
    return failed(exc, f"cannot copy to {name!r}")


def _give_up_on(outcome: Outcome, name: str) -> None:
    """Raise if an error left nothing worth keeping."""
    match outcome.error:
        case None:
            return
        case OSError() as exc:
            if exc.errno not in KEPT or outcome.data_bytes == 0:
                raise _failed(exc, name) from exc
        case exc:
            raise exc
