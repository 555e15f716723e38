"""Who held memory at a crash, and what was in ``/dev/shm``, as an archived incident has it."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import nlargest
from typing import NamedTuple

from collector.collectors.shm.inventory import InventoryRow
from collector.model.incident import Manifest
from collector.model.recording import STEP
from collector.model.segments import Planned
from collector.report.archived_lines import artifact_path, lines, rows
from collector.runner.recorded_files import RoundLine

SHOWN = 12
KIB = 1024


class MemoryHolder(NamedTuple):
    """A process: resident bytes, and those of them that are shared memory, if that is known."""

    pid: int
    comm: str
    rss_bytes: int
    shared_bytes: int | None = None
    cgroup: str = ""


class ShmSegment(NamedTuple):
    """A file in ``/dev/shm``; *held* says whether the crashed process had it, and *artifact* is empty if not taken."""

    name: str
    size_bytes: int
    data_bytes: int
    uid: int | None = None
    held: str = ""
    artifact: str = ""
    not_taken: str = ""


def memory_holders(incident: int, manifest: Manifest) -> list[MemoryHolder]:
    """Return the largest processes by memory: of the process table, else of the recorder's last round."""
    table = artifact_path(manifest, "process_table", "processes.tsv")
    found = nlargest(SHOWN, _table(incident, table), key=lambda holder: holder.rss_bytes)
    if found:
        return found
    last: RoundLine | None = None
    for last in rows(incident, artifact_path(manifest, STEP, "top.jsonl"), RoundLine):  # noqa: B007 - the last one
        pass
    return list(_of_round(last))[:SHOWN] if last is not None else []


def shm_segments(incident: int, manifest: Manifest) -> list[ShmSegment]:
    """Return the crashed process's segments and those wanted by name, the largest first, and then all others."""
    found: dict[str, ShmSegment] = {}
    plan = artifact_path(manifest, "shm", "segments.jsonl")
    folder = (plan or "").rpartition("/")[0]
    copied = {artifact.path for artifact in manifest.artifacts()}
    for planned in rows(incident, plan, Planned):
        path = f"{folder}/{planned.artifact}"
        is_there = path in copied
        found[planned.name] = ShmSegment(
            name=planned.name,
            size_bytes=planned.size_bytes,
            data_bytes=planned.data_bytes,
            held=planned.why,
            artifact=path if is_there else "",
            not_taken=planned.not_taken or ("" if is_there else "it was not copied"),
        )
    for row in rows(incident, artifact_path(manifest, "shm", "inventory.jsonl"), InventoryRow):
        if row.kind in {"dir", "directory"}:
            continue
        known = found.get(row.name, ShmSegment(row.name, row.size_bytes, row.data_bytes))
        found[row.name] = known._replace(uid=row.uid)
    return sorted(found.values(), key=lambda segment: (not segment.held, -segment.data_bytes))


def _table(incident: int, path: str | None) -> Iterator[MemoryHolder]:
    found = lines(incident, path)
    names = next(found, b"").decode("utf-8", "replace").rstrip("\n").split("\t")
    for line in found:
        row = dict(zip(names, line.decode("utf-8", "replace").rstrip("\n").split("\t"), strict=False))
        pid, rss, shared = (_number(row.get(name, "")) for name in ("pid", "rss_kib", "shmem_kib"))
        if pid is not None and rss:
            shared_bytes = None if shared is None else shared * KIB
            yield MemoryHolder(pid, row.get("comm", ""), rss * KIB, shared_bytes, row.get("cgroup", ""))


def _of_round(last: RoundLine) -> Iterator[MemoryHolder]:
    for process in last.by_memory:
        if len(process) >= 4 and isinstance(process[0], int) and isinstance(process[3], int):
            yield MemoryHolder(process[0], str(process[1]), process[3])


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None
