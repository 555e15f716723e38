"""Copies one regular file: planned, rate-limited, written past the page cache, published when complete."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from contextlib import closing

from collector.copying.buffers import POOL_BYTES, lease
from collector.copying.deferred_sync import SMALL_BYTES
from collector.copying.hashing import hasher_for
from collector.copying.plan import PAGE, chunks
from collector.copying.rate.throttle import Throttle, always_go, ignore, limiter_for
from collector.copying.sink import KEPT, SMALL, Sink, failed
from collector.copying.small import SmallCopy, small_hasher
from collector.copying.source import MergedExtents, Source, SourceError, SourceReader
from collector.copying.writers import WriteResult, Writers
from collector.host import disk, filesystem
from collector.model.artifact import Method
from collector.model.copying import CopyReport, CopySettings, Digest, Feedback, MethodChoice
from collector.model.errors import CopyError
from collector.model.units import mib

FALLBACKS = "{} chunks went through the buffer: the source changed, or the disk takes no pages"


def copy(
    source_fd: int,
    *,
    directory_fd: int,
    name: str,
    settings: CopySettings,
    offset: int = 0,
    limit_bytes: int | None = None,
    room_bytes: int | None = None,
    deferred: bool = False,
    ask: Callable[[], Feedback] = always_go,
    progress: Callable[[int], None] = ignore,
) -> CopyReport:
    """
    Copy an open regular file to *name*, keeping its holes and bypassing the page cache, and sync it.

    Args:
        source_fd: Open for reading; the caller closes it.
        directory_fd: The destination's directory; the caller syncs it.
        name: The destination's name in that directory; ``NAME.part`` meanwhile, mode 0600.
        settings: Method, rate, chunk, writers, digest.
        offset: First byte to copy; a multiple of the page size.
        limit_bytes: Maximum number of bytes to copy; if that leaves some out, the copy is marked truncated.
        room_bytes: Maximum space on the disk; a copy that needs more is refused as a whole.
        deferred: A file of at most 64 KiB is durable only after `deferred_sync.sync_all`, which the caller calls.
        ask: The gate; asked between chunks, at most every 50 ms. Calls come one at a time, from any writer.
        progress: Called with the data bytes copied so far, in the same way.

    Returns:
        What was copied. After STOP, a source that shrank, or ENOSPC, EDQUOT or EIO midway: the complete chunks before
        that, *truncated*, with the reason.

    Raises:
        CopyError: If nothing could be copied; nothing is left behind.
    """
    started, cpu = time.monotonic(), time.process_time()
    source = Source(source_fd, offset, limit_bytes)
    if deferred and source.size <= SMALL_BYTES:
        return _copy_small(source, directory_fd, name, settings, room_bytes=room_bytes, ask=ask, progress=progress)
    with closing(Sink(directory_fd, name)) as sink:
        method, why = choose(settings, source, sink)
        limiter = limiter_for(settings.rate, os.fstat(directory_fd).st_dev)
        throttle = Throttle(limiter=limiter, ask=ask, flush=sink.flush, flushes=sink.flushes)
        hasher = hasher_for(settings.digest, source) if settings.digest is not Digest.NONE else None
        chunk = chunk_size(settings, sink.align)
        extents = MergedExtents(source, sink.align)
        if room_bytes is not None:
            _require_room(extents, room_bytes)
        sink.reserve((extent for extent, _ in extents), shift=source.start, size=source.size)
        reading = Throttle(limiter=limiter_for(settings.rate, source.status.st_dev, reading=True))
        with lease(settings.writers, chunk) as buffers, closing(SourceReader(source, reading)) as reader:
            result = Writers(
                source=source,
                reader=reader,
                sink=sink,
                plan=chunks(extents, size=chunk, align=sink.align),
                method=method,
                throttle=throttle,
                hasher=hasher,
                progress=progress,
            ).run(buffers)
        _raise_if_useless(result, name)
        size = result.end - source.start
        sink.publish(size, failing=result.error is not None and not isinstance(result.error, SourceError))
        return CopyReport(
            size_bytes=size,
            data_bytes=result.data_bytes,
            extents=result.extents,
            method=method,
            method_reason=why,
            direct=sink.direct,
            direct_reason=sink.direct_reason,
            chunk_bytes=chunk,
            writers=settings.writers,
            seconds=time.monotonic() - started,
            cpu_seconds=time.process_time() - cpu,
            digest=hasher.text() if hasher and result.error is None else None,
            changed=source.changed(),
            truncated=result.reason is not None or source.cut,
            truncated_reason=result.reason or source.cut_reason,
            pauses=throttle.pauses,
            slow_downs=throttle.slow_downs + reading.slow_downs,
            gate_reason=throttle.gate_reason,
            notes=(FALLBACKS.format(result.fallbacks),) if result.fallbacks else (),
        )


def _copy_small(
    source: Source,
    directory_fd: int,
    name: str,
    settings: CopySettings,
    *,
    room_bytes: int | None,
    ask: Callable[[], Feedback],
    progress: Callable[[int], None],
) -> CopyReport:
    started, cpu = time.monotonic(), time.process_time()
    extents = MergedExtents(source, PAGE)
    if room_bytes is not None:
        _require_room(extents, room_bytes)
    throttle = Throttle(limiter=limiter_for(settings.rate, os.fstat(directory_fd).st_dev), ask=ask)
    reading = Throttle(limiter=limiter_for(settings.rate, source.status.st_dev, reading=True))
    hasher = small_hasher(settings.digest)
    with closing(Sink(directory_fd, name, direct=False)) as sink:
        copy = SmallCopy(source=source, extents=extents, sink=sink, throttle=throttle, reading=reading, hasher=hasher)
        copy.run(name, progress)
    return CopyReport(
        size_bytes=copy.size,
        data_bytes=copy.data_bytes,
        extents=copy.pieces,
        method=Method.BOUNCE,
        method_reason=SMALL,
        direct=False,
        direct_reason=SMALL,
        chunk_bytes=SMALL_BYTES,
        writers=1,
        seconds=time.monotonic() - started,
        cpu_seconds=time.process_time() - cpu,
        digest=hasher.text(),
        changed=source.changed(),
        truncated=copy.reason is not None or source.cut,
        truncated_reason=copy.reason or source.cut_reason,
        pauses=throttle.pauses,
        slow_downs=throttle.slow_downs + reading.slow_downs,
        gate_reason=throttle.gate_reason,
    )


def chunk_size(settings: CopySettings, align: int) -> int:
    """Return the configured chunk length, reduced to a multiple of *align* that fits the buffers."""
    room = min(settings.chunk_bytes, POOL_BYTES // settings.writers)
    return max(align, room // align * align)


def choose(settings: CopySettings, source: Source, sink: Sink) -> tuple[Method, str]:  # noqa: PLR0911 - a list of rules
    """Choose between splicing, mapping and reading; return the method and the reason."""
    if source.kind != filesystem.TMPFS:
        return Method.BOUNCE, f"a source on {source.kind} is read past the page cache"
    if sink.align > PAGE:
        return Method.BOUNCE, f"the destination needs blocks of {sink.align} bytes, more than a page"
    if settings.digest is not Digest.NONE:
        return Method.BOUNCE, "the digest is computed during the copy"
    if settings.method is not MethodChoice.AUTO:
        return Method(settings.method), "as configured"
    if sink.kind in (filesystem.BTRFS, filesystem.OVERLAY) or disk.needs_stable_pages(sink.device):
        return Method.BOUNCE, f"{sink.kind} or its disk must not see pages change during a write"
    if source.on_huge_pages:
        return Method.MMAP, "huge pages cost least when they are mapped"
    return Method.SPLICE, "pages of tmpfs go to the disk as they are"


def _require_room(extents: MergedExtents, room_bytes: int) -> None:
    """Check before anything is allocated: otherwise the gate, asked between chunks, would find the disk too full."""
    needed = sum(extent.end - extent.start for extent, _ in extents)
    if needed > room_bytes:
        raise CopyError(
            f"its {mib(needed)} do not fit: the disk has {mib(room_bytes)} free for it"
            " beyond archive.reserve and the shares of others",
            errno=errno.ENOSPC,
        )


def _raise_if_useless(result: WriteResult, name: str) -> None:
    """Raise the error that ended the copy unless what was written before it is worth keeping."""
    exc = result.error
    if isinstance(exc, OSError):
        if exc.errno not in KEPT or result.data_bytes == 0:
            what = "read the source of" if isinstance(exc, SourceError) else "copy to"
            raise failed(exc, f"cannot {what} {name!r}") from exc
    elif exc:
        raise exc
