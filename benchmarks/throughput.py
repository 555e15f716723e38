"""Speed, CPU time and memory of copies of dense, huge-page, sparse and fragmented segments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.copiers import CP, DD, DD_DIRECT, DD_DIRECT_8, SHUTIL, Copier, CopyRun, Engine, fio, measured, row
from benchmarks.machine import GIB, MIB, mounted, segment

Table = dict[str, object]


def paired(title: str, source: Path, target: Path, copiers: Sequence[Copier], *, data: int, runs: int) -> Table:
    """Run all copiers in turn, *runs* times, so that a disturbance affects all of them."""
    results: dict[str, list[CopyRun]] = {copier.name: [] for copier in copiers}
    for _ in range(runs):
        for copier in copiers:
            results[copier.name].append(measured(copier, source, target))
    rows = [row(copier, results[copier.name], data) for copier in copiers]
    return {"title": title, "data_bytes": data, "source_bytes": source.stat().st_size, "rows": rows}


def dense(target: Path, runs: int) -> list[Table]:
    """Copy 2 GiB of small and of huge pages with the engine and with all other tools."""
    theirs = [CP, SHUTIL, DD, DD_DIRECT, DD_DIRECT_8, *(fio(depth) for depth in (1, 2, 4, 8))]
    digest = Engine("engine bounce + xxh3, max", method="bounce", rate="max", digest="xxh3_128")
    with ours() as engines, digest, shipped("max") as full, shipped("adaptive") as adaptive:
        with segment(2 * GIB) as source:
            copiers = [*engines, digest, full, adaptive, *theirs]
            found = [paired("Dense, 2 GiB", source, target, copiers, data=2 * GIB, runs=runs)]
        with (
            mounted("none", target / "huge", "tmpfs", "huge=always,size=2100m") as huge,
            segment(2 * GIB, directory=str(huge)) as source,
        ):
            title = "Dense, 2 GiB on huge pages"
            found.append(paired(title, source, target, [*engines, full, DD_DIRECT], data=2 * GIB, runs=runs))
    return found


def memory(target: Path, runs: int) -> list[Table]:
    """Copy a small and a large segment: both must take the same memory."""
    found = []
    with ours() as engines:
        for size in (GIB // 4, 8 * GIB):
            with segment(size) as source:
                title = f"Memory: dense, {size // MIB} MiB"
                found.append(paired(title, source, target, [*engines, DD_DIRECT], data=size, runs=runs))
    return found


def holes(target: Path, runs: int) -> list[Table]:
    """Copy a segment that is mostly holes, and a fragmented one."""
    with ours() as engines:
        with segment(65_536, pieces=1000, stride=65 * MIB) as source:
            title = "Sparse, 64 GiB with 1,000 pieces of 64 KiB"
            found = [paired(title, source, target, [*engines, CP], data=1000 * 65_536, runs=runs)]
        with segment(4096, pieces=65_536, stride=8192) as source:
            title = "Fragmented, every second page of 512 MiB"
            found.append(paired(title, source, target, [*engines, CP, DD_DIRECT], data=256 * MIB, runs=runs))
    return found


WRITES: dict[str, tuple[int, int]] = {"splice": (4, MIB), "mmap": (2, 2 * MIB), "bounce": (2, 2 * MIB)}
"""Writers and chunk size that suit each method at full speed; a pipe holds at most 1 MiB."""


@contextmanager
def ours() -> Iterator[list[Copier]]:
    """Start one engine per method."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                Engine(
                    f"engine {method}, max, {writers} x {chunk // MIB} MiB",
                    method=method,
                    rate="max",
                    writers=writers,
                    chunk=chunk,
                )
            )
            for method, (writers, chunk) in WRITES.items()
        ]


def shipped(rate: str) -> Engine:
    """Start the engine with the settings of the shipped configuration."""
    return Engine(f"engine auto, {rate}", rate=rate)
