"""
How long each verb takes on an archive of many incidents, from the start of its process to its first output and its end.

The incidents are made by the program's own store: one is collected by hand, and archived again under other names as
crashes of twenty programs, every twentieth without its core. The ledger has ten markers for each of them.
"""

from __future__ import annotations

import os
import pkgutil
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.machine import run
from collector.archive import directory, layout
from collector.archive.ledger import Ledger
from collector.archive.read import ArchiveReader
from collector.archive.seal import seal
from collector.archive.store import ArtifactLine, Store
from collector.collectors.core.summary import CoreSummary
from collector.config.spec import ARCHIVE_PATH
from collector.model.case import Fate
from collector.model.incident import IncidentHeader, Manifest, StepEnd, StepStatus
from collector.model.marker import Marker, MarkerKind, ProcessRef

INCIDENTS = 500
PROGRAMS = 20
MARKERS = 10
"""Of each incident in the ledger: its own, and repeats of it that were suppressed."""

CORE = "core/core.json"
VERBS = (
    "list", "list -n 20", "list --json", "list --group", "show latest", "crashes", "crashes --json",
    "crashes --all -n 100", "prune --dry-run", "status", "verify latest", "export latest", "config check", "doctor",
)  # fmt: skip


def rounds(scratch: Path, runs: int) -> list[dict[str, Any]]:
    """Time every verb *runs* times on `INCIDENTS`; return medians in ms."""
    archive = scratch / "archive"
    build(archive, scratch / "template", INCIDENTS)
    config = _config(scratch, archive)
    return [timed(verb, config, runs) for verb in VERBS]


def build(archive: Path, template: Path, count: int) -> None:
    """Make an archive of *count* incidents, and its ledger."""
    run(sys.executable, "-m", "collector.cli.main", "run", "--now", "--archive", template)
    with ArchiveReader(str(template)) as opened:
        manifest = opened.manifest(opened.resolve("latest"))
    store = Store(str(archive))
    ledger = Ledger(str(archive / layout.LEDGER))
    for number in range(count):
        begun_s = time.time() - 60.0 * (count - number)
        header = _header(manifest, number, begun_s)
        _archive(store, header, manifest, template / manifest.id, has_core=number % 20 != 0)
        with ledger.batch():
            _account(ledger, header)
    ledger.close()


def timed(verb: str, config: Path, runs: int) -> dict[str, Any]:
    """Time one verb; what an export writes is removed again."""
    command = [sys.executable, "-I", "-m", "collector.cli.main", *verb.split(), "--config", str(config)]
    first, end, cpu, lines = [], [], [], 0
    for _ in range(runs):
        target = config.with_name("exported.tar.zst")
        output = ["-o", str(target)] if verb.startswith("export") else []
        before = os.times()
        begun_s = time.monotonic()
        with subprocess.Popen([*command, *output], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            assert process.stdout is not None
            beginning = process.stdout.read(1)
            first.append(time.monotonic() - begun_s)
            lines = (beginning + process.stdout.read()).count(b"\n")
        end.append(time.monotonic() - begun_s)
        after = os.times()
        cpu.append(after.children_user + after.children_system - before.children_user - before.children_system)
        target.unlink(missing_ok=True)
    return {
        "verb": verb,
        "runs": runs,
        "first_ms": round(1000 * statistics.median(first), 1),
        "end_ms": round(1000 * statistics.median(end), 1),
        "cpu_ms": round(1000 * statistics.median(cpu), 1),
        "lines": lines,
    }


def _config(scratch: Path, archive: Path) -> Path:
    """Write the shipped configuration for *archive*."""
    text = pkgutil.get_data("collector.config", "default.yaml") or b""
    path = scratch / "collector.yaml"
    path.write_bytes(text.replace(ARCHIVE_PATH.encode(), str(archive).encode()))
    return path


def _header(manifest: Manifest, number: int, begun_s: float) -> IncidentHeader:
    program = number % PROGRAMS
    marker = Marker(
        kind=MarkerKind.EXIT,
        trigger="exits",
        at_s=begun_s,
        reason="crashed",
        process=ProcessRef(pid=4_000_000 + number, start_time_ticks=number + 1),
        comm=f"engine{program}",
        exe=f"/opt/engine{program}/bin/engine{program}",
        uid=1000 + program % 3,
        signal=11 if program % 4 else 6,
        unit=f"engine{program}.service",
    )
    known = {name: getattr(manifest, name) for name in IncidentHeader.__struct_fields__}
    changed = {"id": layout.new_id(begun_s), "markers": (marker,), "started_s": begun_s, "owner": f"uid {marker.uid}"}
    return IncidentHeader(**(known | changed))


def _archive(store: Store, header: IncidentHeader, manifest: Manifest, source: Path, *, has_core: bool) -> None:
    """Archive the steps of *manifest*, whose files are in *source*, as those of another incident."""
    lock = store.begin(header)
    target = Path(store.path, header.id + layout.PARTIAL)
    lines = [
        ArtifactLine(step=step.id, **msgspec.structs.asdict(artifact))
        for step in manifest.steps
        for artifact in step.artifacts
        if step.id != "core"
    ]
    for line in lines:
        (target / line.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / line.path, target / line.path)
    comm = header.markers[0].comm
    core = CoreSummary(path="core", size_bytes=1 << 20, signature=f"sig1:{comm}", signature_of=f"{comm} 11 work")
    text = msgspec.json.encode(core)
    (target / CORE).parent.mkdir()
    (target / CORE).write_bytes(text)
    lines.append(ArtifactLine(step="core", path=CORE, size_bytes=len(text), data_bytes=len(text)))
    with store.incident(header.id) as fd:
        directory.append(layout.ARTIFACTS, b"\n".join(map(msgspec.json.encode, lines)), fd, durable=False)
    ends = [
        StepEnd(**{name: getattr(step, name) for name in StepEnd.__struct_fields__})
        for step in manifest.steps
        if step.id != "core"
    ]
    status, reason = (StepStatus.OK, "") if has_core else (StepStatus.TRUNCATED, "the core is cut off")
    store.record_steps(header.id, [*ends, StepEnd(id="core", collector="core", status=status, reason=reason)])
    seal(store, header.id, ended_s=header.started_s + 1.0, interrupted=False)
    os.close(lock)


def _account(ledger: Ledger, header: IncidentHeader) -> None:
    marker = header.markers[0]
    for number in range(MARKERS):
        case = ledger.record(marker, pipeline="crash", owner=header.owner)
        if number == 0:
            ledger.begin(case, header.id)
            ledger.finish(case, Fate.COLLECTED, incident=header.id)
        else:
            ledger.decide(case, Fate.SUPPRESSED, reason="over storm.per_executable")
