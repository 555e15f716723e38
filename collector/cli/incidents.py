"""``collector show``: what an incident holds."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from collector.archive.read import ArchiveReader, UnderWay
from collector.cli.cgroup_summary import cgroup_facts
from collector.cli.crash_summary import core_facts, crash_facts
from collector.cli.options import archive_options, archive_path
from collector.cli.stacks import show_stacks
from collector.cli.text import escape_name, printable, size, when
from collector.model.artifact import ArtifactRecord
from collector.model.incident import Manifest, StepRecord
from collector.model.marker import Marker, MarkerKind
from collector.model.pressure import SpeedChange
from collector.model.signals import signal_name

OWNER_SHOWN = 80


@click.command("show")
@click.argument("incident", metavar="ID")
@click.option("--stacks", is_flag=True, help="Show the backtraces of all threads of its core instead.")
@archive_options
def show_command(*, incident: str, stacks: bool, archive: str | None, config: str | None, as_json: bool) -> int:
    """Show one incident. ID may be the start or the end of an id, or `latest`."""
    if stacks:
        return show_stacks(incident, archive_path(config, archive), as_json=as_json)
    with ArchiveReader(archive_path(config, archive)) as opened:
        known = opened.resolve(incident, unsealed=True)
        found = opened.read(known)
        core = core_facts(opened, known, found) if isinstance(found, Manifest) else []
        cgroup = cgroup_facts(opened, known, found) if isinstance(found, Manifest) else []
        path = f"{opened.path}/{known}{'' if isinstance(found, Manifest) else '.partial'}"
    if as_json:
        click.echo(msgspec.json.encode(found))
        return 0
    for line in _describe(found, path, core, cgroup):
        click.echo(line)
    return 0


def _describe(found: Manifest | UnderWay, path: str, core: list[str], cgroup: list[str]) -> list[str]:
    seconds = found.ended_s - found.started_s if isinstance(found, Manifest) else -1.0
    took = f", took {seconds:.2f} s" if seconds >= 0 else ""  # sealed after the clock was set back: not known
    about = "process" if found.markers and found.markers[0].kind is MarkerKind.MANUAL else "crash"
    lines = [
        f"incident  {escape_name(found.id)}  {found.state}",
        f"path      {printable(path)}",
        *([f"owner     {escape_name(found.owner[:OWNER_SHOWN])}"] if found.owner else []),
        *(f"{about:<9} {line}" for line in crash_facts(found.markers)),
        *(f"core      {line}" for line in core),
        *(f"cgroup    {line}" for line in cgroup),
        *_hold(found),
        f"machine   {escape_name(found.host)}, Linux {escape_name(found.kernel)}",
        f"time      {when(found.started_s)}{took}",
        *(f"marker    {_marker(marker)}" for marker in found.markers),
    ]
    for step in found.steps:
        lines += ["", *_step(step)]
    done = {step.id for step in found.steps}
    left_out = [step for step in found.left_out if step.id not in done]
    if left_out:
        lines += ["", *(f"left out: {escape_name(step.id)}: {escape_name(step.reason)}" for step in left_out)]
    if isinstance(found, Manifest) and found.foreign_names:
        lines += ["", f"not listed: {found.foreign_names} files whose names are not the collector's"]
    missing = [step for step in found.planned if step not in done]
    if missing:
        label = "never run" if isinstance(found, Manifest) else "not yet run"
        lines += ["", f"{label}: {escape_name(', '.join(missing))}"]
    return lines


def _hold(found: Manifest | UnderWay) -> list[str]:
    if not isinstance(found, Manifest) or found.hold is None:
        return []
    return [f"held      {found.hold.seconds:.2f} s: {escape_name(found.hold.ended)}"]


def _marker(marker: Marker) -> str:
    known: dict[str, Any] = {
        "pid": marker.process.pid if marker.process else None,
        "thread": marker.thread if marker.process is None or marker.thread != marker.process.pid else None,
        "comm": marker.comm,
        "thread_comm": marker.thread_comm,
        "exe": marker.exe,
        "uid": marker.uid,
        "signal": signal_name(marker.signal) if marker.signal is not None else None,
        "unit": marker.unit,
        "core": marker.core.path if marker.core else None,
    }
    facts = " ".join(f"{name}={escape_name(str(value))}" for name, value in known.items() if value is not None)
    doubt = "" if marker.attributed else " (names no certain process: perhaps about this crash)"
    return f"{escape_name(marker.trigger)}: {escape_name(marker.reason)} {facts}".rstrip() + doubt


def _step(step: StepRecord) -> list[str]:
    lines = [f"{escape_name(step.id)}  {step.status}  {step.duration_s:.2f} s"]
    if step.reason:
        lines.append(f"  why    {escape_name(step.reason)}")
    if step.hint:
        lines.append(f"  hint   {escape_name(step.hint)}")
    if step.verdict is not None and step.verdict.reason:
        lines.append(f"  gate   {step.verdict.decision}: {escape_name(step.verdict.reason)}")
    lines += [f"  gate   {_change(change)}" for change in step.speed_changes]
    lines += [f"  {_artifact(artifact)}" for artifact in step.artifacts]
    return lines


def _change(change: SpeedChange) -> str:
    return f"after {change.after_s:.1f} s {escape_name(change.advice)} {escape_name(change.reason)}".rstrip()


def _artifact(artifact: ArtifactRecord) -> str:
    marks = [
        mark
        for mark, applies in (
            ("sparse", artifact.sparse),
            ("TRUNCATED", artifact.truncated),
            ("source changed during the copy", artifact.source_changed),
            ("buffered", artifact.direct is False and artifact.data_bytes >= 1 << 20),
            (f"gate {escape_name(artifact.gate_reason or '')}", artifact.gate_reason),
        )
        if applies
    ]
    text = f"{size(artifact.size_bytes):>10}  {artifact.path}"
    if artifact.source is not None:
        text += f"  <- {escape_name(artifact.source)}"
    return f"{text}  [{', '.join(marks)}]" if marks else text
