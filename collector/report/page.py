"""
The page of an incident: one HTML document of its own, without script, network or anything that it loads.

It is bounded, whatever the incident holds: each list has its share of `MAX_BYTES`, and says what it leaves out.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from collector import __version__
from collector.archive import tree
from collector.archive.read import ArchiveReader
from collector.model.incident import Manifest, StepStatus
from collector.model.units import counted, size
from collector.report import charts, recorded_charts
from collector.report.agreement import agreement
from collector.report.chain import where
from collector.report.changed_files import damaged_steps
from collector.report.charts import ChartTimes
from collector.report.holders import memory_holders, shm_segments
from collector.report.left_out import without_steps
from collector.report.page_lines import page_lines
from collector.report.page_text import bounded, moment, shown, span
from collector.report.page_threads import fold, registers_of, shown_threads
from collector.report.page_words import head_facts
from collector.report.recording import ArchivedRecording, read_recording
from collector.report.story import Story
from collector.report.text import fitted
from collector.report.timeline import timeline

MAX_BYTES = 2 << 20
KIB = 1 << 10
SHARES = {
    "missing": 64 * KIB,
    "kernel": 128 * KIB,
    "said": 128 * KIB,
    "facts": 64 * KIB,
    "threads": 448 * KIB,
    "registers": 128 * KIB,
    "timeline": 96 * KIB,
    "segments": 96 * KIB,
    "files": 256 * KIB,
}
MIN_TIMES_S = 10.0
MAX_CHAIN = 400
"""Characters of the chain of functions at the head: the threads follow."""

NONE = StepStatus.NOT_APPLICABLE


def page(
    archive: ArchiveReader, story: Story, *, left_out: Collection[str] = (), names: Mapping[str, str] | None = None
) -> Iterator[str]:
    """
    Yield the page of a sealed incident, in pieces.

    Args:
        archive: The archive.
        story: Of the incident, told with the same *left_out*.
        left_out: Steps that the page does not tell of, as `without_steps` does.
        names: What the files are called beside the page in an export, by their paths in the manifest.

    Raises:
        ArchiveError: If its manifest cannot be read; before anything is yielded.
    """
    manifest = without_steps(archive.manifest(story.id), left_out)
    with archive.incident(story.id) as fd:
        threads = fold(story.trace.threads if story.trace else ())
        kept = shown_threads(threads, most_bytes=SHARES["threads"])
        recording = read_recording(fd, manifest)
        sizes = {path: status.st_size for path, status in tree.files(fd)}
        missing = [*damaged_steps(manifest, sizes, story.missing), *story.missing]
        facts: dict[str, Any] = {
            "story": story,
            "names": names,
            "where": fitted(where(story)[0], MAX_CHAIN),
            "head": list(head_facts(story)),
            "manifest": manifest,
            "agreed": bounded(agreement(manifest.markers), most_bytes=SHARES["facts"]),
            "missing": bounded((gap for gap in missing if gap.status != NONE), most_bytes=SHARES["missing"]),
            "inapplicable": bounded((gap for gap in missing if gap.status == NONE), most_bytes=SHARES["missing"]),
            "kernel_lines": page_lines(story.kernel_lines, most_bytes=SHARES["kernel"]),
            "said": page_lines(story.said, most_bytes=SHARES["said"]),
            "threads": kept._replace(rows=registers_of(fd, manifest, kept.rows, most_bytes=SHARES["registers"])),
            "stacks": len(threads),
            "holders": memory_holders(fd, manifest),
            "segments": bounded(shm_segments(fd, manifest), most_bytes=SHARES["segments"]),
            "timeline": bounded(timeline(story, manifest), most_bytes=SHARES["timeline"]),
            "files": bounded(manifest.artifacts(), most_bytes=SHARES["files"]),
            "recording": recording,
            "gaps": recorded_charts.gaps(recording),
            "charts": recorded_charts.charts(recording),
            "times": _times(story, manifest, recording),
        }
    yield from _template().generate(facts)


def _times(story: Story, manifest: Manifest, recording: ArchivedRecording) -> ChartTimes:
    """Return what the charts show: all that was recorded, and the collection, as far as the calendar has it."""
    crash_s = story.at.timestamp() if story.at else manifest.started_s
    rows = [second.at_s for second in recording.seconds] or [crash_s]
    last_s = max(rows[-1], rows[0] + MIN_TIMES_S)
    return ChartTimes(rows[0], last_s, crash_s, manifest.started_s, manifest.ended_s)


@cache
def _template() -> Any:
    """Return the template; its style is named by its digest in the page's policy: no other can be planted."""
    style = _file("report.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(_file),
    )
    environment.filters |= {"moment": moment, "size": size, "span": span}
    environment.globals |= {
        "amount": charts.amount,
        "bar": charts.bar,
        "counted": counted,
        "draw": charts.draw,
        "sample": charts.sample,
        "style": Markup(style),  # noqa: S704 - the package's own file
        "style_digest": digest,
        "collector_version": __version__,
        "most_lines": charts.MAX_LINES,
    }
    return environment.get_template("report.html")


def _file(name: str) -> str:
    return (resources.files("collector.report") / "templates" / name).read_text(encoding="utf-8")
