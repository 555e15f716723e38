"""Stories of incidents made by hand, and archives that hold what they tell of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from collector.archive.read import encode_manifest
from collector.model.artifact import ArtifactRecord
from collector.model.incident import HoldRecord, IncidentState, Manifest, StepRecord, StepStatus
from collector.model.marker import Marker, MarkerKind, ProcessRef
from collector.report.story import Cause, Kept, LogLine, MemoryThen, Missing, Repeats, Story, Subject, Witness
from collector.report.traces import LIBDW, Backtraces, ThreadTrace, TraceFrame

INCIDENT = "20261128T001933.000000Z-9f21c4"
AT = datetime(2026, 11, 28, 0, 19, 33, tzinfo=UTC)
PID = 4_000_077
GIB = 1 << 30
BOOT_S = 5000.0
"""When the crash was, in seconds since boot."""


def story(**changes: Any) -> Story:
    """Return the story of a crash of `engine`, in which everything is known."""
    frames = tuple(TraceFrame(module="engine", offset="0x1146", function=name) for name in ("price", "match", "main"))
    known = Story(
        id=INCIDENT,
        state="incomplete",
        path=f"/var/lib/collector/{INCIDENT}",
        pipeline="crash",
        at=AT,
        ended=AT + timedelta(seconds=4),
        host="host-7",
        kernel="6.18.0",
        owner="engine.service",
        subject=Subject(comm="engine", pid=PID, exe="/opt/engine", unit="engine.service", uid=1000),
        cause=Cause(
            said="SIGSEGV at 0x0 (null pointer)",
            kind="null_pointer",
            diagnosis="engine read from address 0x0, through a null pointer.",
            signal="SIGSEGV",
            code="SEGV_MAPERR",
            address="0x0",
        ),
        kept=Kept(files=4, size_bytes=GIB, core="core/core", core_bytes=1 << 24),
        trace=Backtraces(
            by=LIBDW,
            threads=(ThreadTrace(tid=PID, frames=frames), *(ThreadTrace(tid=PID + n, frames=()) for n in (1, 2, 3))),
        ),
        threads=4,
        signature="sig1:3f9c",
        signature_of="SIGSEGV price < match < main",
        build_id="0a1b2c",
        said=(LogLine(at=AT, text="order 4711: symbol missing, matching anyway", who="engine", matters=True),),
        kernel_lines=(
            LogLine(at=AT - timedelta(seconds=60), text="EXT4-fs (loop0): mounted"),
            LogLine(at=AT, text="engine[4000077]: segfault at 0 ip 0 in engine", matters=True),
        ),
        memory=MemoryThen(available_bytes=21 * GIB, total_bytes=24 * GIB, before_s=600.0, before_bytes=22 * GIB),
        missing=(Missing(step="journal", status="failed", reason="no journald here"),),
        witnesses=(Witness(trigger="exits", at=AT, said="ended with SIGSEGV"),),
        repeats=Repeats(by="signature", key="sig1:3f9c", count=3, number=3, first=AT, last=AT, recorded=4),
        next=("collector debug latest",),
    )
    return msgspec.structs.replace(known, **changes)


def manifest(**changes: Any) -> Manifest:
    """Return the manifest of the same crash, with the artifacts that `files` has."""
    marker = Marker(
        kind=MarkerKind.EXIT,
        trigger="exits",
        at_s=AT.timestamp(),
        reason="ended with SIGSEGV",
        process=ProcessRef(pid=PID),
        comm="engine",
        signal=11,
        uid=1000,
    )
    steps = [
        StepRecord(
            id=path.partition("/")[0],
            collector=collector,
            status=StepStatus.OK,
            started_s=AT.timestamp() + 0.1,
            duration_s=0.5,
            artifacts=(
                ArtifactRecord(path=path, size_bytes=len(data), data_bytes=len(data), digest=f"xxh3_128:{0:032x}"),
            ),
        )
        for (path, collector), data in FILES.items()
    ]
    known = Manifest(
        version=1,
        id=INCIDENT,
        pipeline="crash",
        markers=(marker, msgspec.structs.replace(marker, trigger="cores", signal=6)),
        host="host-7",
        boot_id="b",
        kernel="6.18.0",
        collector_version="0.1.0",
        config_hash="c",
        started_s=AT.timestamp(),
        ended_s=AT.timestamp() + 4,
        state=IncidentState.INCOMPLETE,
        steps=tuple(steps),
        hold=HoldRecord(seconds=0.4, ended="its dump was received"),
    )
    return msgspec.structs.replace(known, **changes)


def recorder_file(
    rows: int = 60, *, gap: int = 0, columns: tuple[str, ...] = ("mem_available", "psi_io_some")
) -> bytes:
    """Return a file of the recorder: a row a second until the crash, *gap* seconds missing in the middle."""
    names = ("boottime", *columns, "disks")
    moment = {"boottime_s": BOOT_S, "wall_s": AT.timestamp()}
    head = {
        "recorder": 1,
        "boot_id": "b",
        "period_s": 1.0,
        "keep_s": 900.0,
        "page_bytes": 4096,
        "started": moment,
        "read": moment,
        "columns": [{"name": name, "unit": "", "kind": ""} for name in names],
        "disk_columns": [
            {"name": name, "unit": "", "kind": ""} for name in ("disk", "read", "written", "in_flight", "busy")
        ],
        "disks": {"7:0": "loop0"},
    }
    lines = [head]
    for number in range(rows):
        back_s = rows - number + (gap if number < rows // 2 else 0)
        figures = [GIB + number * 1000 for _ in columns]
        lines.append([BOOT_S - back_s, *figures, [["7:0", number, number * 4096, 1, number * 500]]])
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


FILES: Mapping[tuple[str, str], bytes] = {
    ("recorder/recorder.jsonl", "recorder"): recorder_file(gap=30),
    ("processes/processes.tsv", "process_table"): (
        b"pid\tcomm\trss_kib\tshmem_kib\n4000077\tengine\t2048\t1024\n4000078\tother\t1024\t\n"
    ),
    ("segments/segments.jsonl", "shm"): (
        b'{"name":"engine.main","why":"mapped by the crashed process","size_bytes":4096,"data_bytes":4096,'
        b'"artifact":"segments/0001"}\n'
    ),
    ("core/threads.jsonl", "core"): b'{"tid":4000077,"registers":{"rip":"0x1146","rax":"0x0"}}\n',
    ("segments/segments/0001", "shm"): b"prices",
}  # fmt: skip


def archived_story(path: Path, *, known: Manifest | None = None, files: Mapping[str, bytes] | None = None) -> Path:
    """Make an archive at *path* that holds the incident; *files* replace those of `FILES` by their paths."""
    incident = path / INCIDENT
    contents = {name: data for (name, _), data in FILES.items()} | dict(files or {})
    for name, data in contents.items():
        (incident / name).parent.mkdir(parents=True, exist_ok=True)
        (incident / name).write_bytes(data)
    (incident / "manifest.json").write_bytes(encode_manifest(known or manifest()))
    path.chmod(0o700)
    return path
