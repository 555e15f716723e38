"""``collector list`` and ``collector show``: what is in the archive."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from collector.archive.read import Archive, Summary
from collector.cli.options import archive_option, archive_path, config_option, json_option
from collector.cli.text import escape_name, size, when
from collector.model.artifact import ArtifactRecord
from collector.model.incident import Manifest, StepRecord, StepStatus
from collector.model.marker import Marker


@click.command("list")
@archive_option
@config_option
@json_option
def list_command(*, archive: str | None, config: str | None, as_json: bool) -> int:
    """List the incidents in the archive, oldest first."""
    with Archive(archive_path(config, archive)) as opened:
        found = list(opened.summaries())
    if as_json:
        known = [one for one in found if isinstance(one, Summary)]
        problems = [one for one in found if isinstance(one, str)]
        click.echo(msgspec.json.encode({"incidents": known, "problems": problems}))
        return 0
    for one in found:
        click.echo(_line(one) if isinstance(one, Summary) else escape_name(one))
    if not found:
        click.echo("no incidents", err=True)
    return 0


@click.command("show")
@click.argument("incident", metavar="ID")
@archive_option
@config_option
@json_option
def show_command(*, incident: str, archive: str | None, config: str | None, as_json: bool) -> int:
    """Show one incident. ID may be the start of an id, or `latest`."""
    with Archive(archive_path(config, archive)) as opened:
        known = opened.resolve(incident)
        manifest = opened.manifest(known)
        path = f"{opened.path}/{known}"
    if as_json:
        click.echo(msgspec.json.encode(manifest))
        return 0
    for line in _describe(manifest, path):
        click.echo(line)
    return 0


def _line(summary: Summary) -> str:
    bad = [f"{step}: {status}" for step, status in summary.steps.items() if status != StepStatus.OK]
    text = f"{summary.id}  {summary.state:<11} {size(summary.size_bytes):>10}  {summary.trigger}: {summary.reason}"
    return escape_name(f"{text}  [{', '.join(bad)}]" if bad else text)


def _describe(manifest: Manifest, path: str) -> list[str]:
    lines = [
        f"incident  {escape_name(manifest.id)}  {manifest.state}",
        f"path      {path}",
        f"machine   {escape_name(manifest.host)}, Linux {escape_name(manifest.kernel)}",
        f"time      {when(manifest.started_s)}, took {manifest.ended_s - manifest.started_s:.2f} s",
        *(f"marker    {line}" for marker in manifest.markers for line in _marker(marker)),
    ]
    for step in manifest.steps:
        lines += ["", *_step(step)]
    missing = [step for step in manifest.planned if step not in {done.id for done in manifest.steps}]
    if missing:
        lines += ["", f"never run: {escape_name(', '.join(missing))}"]
    return lines


def _marker(marker: Marker) -> list[str]:
    known: dict[str, Any] = {
        "pid": marker.process.pid if marker.process else None,
        "comm": marker.comm,
        "exe": marker.exe,
        "uid": marker.uid,
        "signal": marker.signal,
        "unit": marker.unit,
        "core": marker.core.path if marker.core else None,
    }
    facts = " ".join(f"{name}={escape_name(str(value))}" for name, value in known.items() if value is not None)
    return [f"{escape_name(marker.trigger)}: {escape_name(marker.reason)} {facts}".rstrip()]


def _step(step: StepRecord) -> list[str]:
    lines = [f"{escape_name(step.id)}  {step.status}  {step.duration_s:.2f} s"]
    if step.reason:
        lines.append(f"  why    {escape_name(step.reason)}")
    if step.verdict is not None and step.verdict.objections:
        lines.append(f"  gate   {step.verdict.decision}: {escape_name(step.verdict.reason)}")
    lines += [f"  {_artifact(artifact)}" for artifact in step.artifacts]
    return lines


def _artifact(artifact: ArtifactRecord) -> str:
    marks = [
        mark
        for mark, is_so in (
            ("sparse", artifact.sparse),
            ("TRUNCATED", artifact.truncated),
            ("source changed meanwhile", artifact.source_changed),
            ("buffered", artifact.direct is False and artifact.data_bytes >= 1 << 20),
        )
        if is_so
    ]
    text = f"{size(artifact.size_bytes):>10}  {artifact.path}"
    if artifact.source is not None:
        text += f"  <- {escape_name(artifact.source)}"
    return f"{text}  [{', '.join(marks)}]" if marks else text
