"""The page of an incident: what it says, that it is valid, closed and bounded."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from pages import checked_page, words
from stories import AT, FILES, INCIDENT, PID, archived_story, manifest, recorder_file, story

from collector.archive.read import ArchiveReader
from collector.model.artifact import ArtifactRecord
from collector.model.incident import Manifest, StepRecord, StepStatus
from collector.model.marker import Marker, MarkerKind
from collector.model.recording import COLUMNS
from collector.report.page import MAX_BYTES, page
from collector.report.story import Cause, Kept, LogLine, MemoryThen, Missing, Story, Subject, Witness
from collector.report.traces import LIBDW, Backtraces, ThreadTrace, TraceFrame

HOSTILE = (
    "</style></title><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "<!--<svg/onload=alert(1)>",
    "]]></desc></svg><a href=javascript:alert(1)>",
    "invoice\u202egnp.exe \u2066 \u200f \u0000 \x1b[2J \ud800",
    "שלום مرحبا",
    "e" + "\u0301" * 500,
    "&lt;b&gt;&amp;",
)


def text_of(path: Path, told: Story, known: Manifest | None = None, files: dict[str, bytes] | None = None) -> str:
    archived_story(path, known=known, files=files)
    with ArchiveReader(str(path)) as archive:
        return "".join(page(archive, told))


def test_page_is_valid_and_loads_nothing(tmp_path: Path) -> None:
    """A strict parser, and no element or attribute that could fetch or run anything."""
    checked_page(text_of(tmp_path / "archive", story()))


def test_page_policy_admits_its_own_style_only(tmp_path: Path) -> None:
    """By its digest, as the browser computes it; there is nothing else that it admits."""
    tree = checked_page(text_of(tmp_path / "archive", story()))
    (style,) = (element.text for element in tree.iter("style"))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = (meta.attrib["content"] for meta in tree.iter("meta") if "http-equiv" in meta.attrib)
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'"


def test_page_says_what_matters_first(tmp_path: Path) -> None:
    """What crashed and why, what is missing, and only then the evidence."""
    text = words(checked_page(text_of(tmp_path / "archive", story())))
    order = [
        f"engine[{PID}] SIGSEGV at 0x0 (null pointer)",
        "engine read from address 0x0, through a null pointer.",
        "price (engine) < match",
        "engine.service",
        "journal failed: no journald here",
        "signal differs SIGSEGV exits signal differs SIGABRT cores",
        f"Thread {PID}, which crashed #0 price",
        "rip0x1146",
        f"3 threads: {PID + 1}, {PID + 2}, {PID + 3}",
        "order 4711: symbol missing, matching anyway ◀ this crash",
        "segfault at 0 ip 0 in engine ◀ this crash",
        "No rows were written for 31 s",
        "engine crashed 2.0 MiB 1.0 MiB",
        "engine.main4.0 KiB4.0 KiBmapped by the crashed processsegments/segments/0001".replace("B", "B "),
        "process held hold",
        "recorder/recorder.jsonl",
    ]
    places = [text.replace(" ", "").find(words_.replace(" ", "")) for words_ in order]
    assert -1 not in places, [told for told, place in zip(order, places, strict=True) if place < 0]
    assert places == sorted(places)


def test_page_says_what_a_brief_lacks_and_that_an_incident_was_continued(tmp_path: Path) -> None:
    """Who reads the page only must not take what was left out, or came late, for all there was."""
    told = story(over_budget="2 incidents of engine (uid 0) in 600 s", left_out=("core", "segments"), gap_s=90.5)
    text = words(checked_page(text_of(tmp_path / "archive", told)))
    assert "over budget: 2 incidents of engine (uid 0) in 600 s, so without core, segments" in text
    assert "cut off, and continued after 1 min" in text


def test_page_says_that_no_line_of_the_kernel_is_this_crash(tmp_path: Path) -> None:
    """They are other processes' then, and look like its own."""
    lines = (LogLine(at=AT, text="other[77]: segfault at 0 ip 0 in other"),)
    told = words(checked_page(text_of(tmp_path / "archive", story(kernel_lines=lines))))
    assert "None of them names this process" in told
    assert "None of them" not in words(checked_page(text_of(tmp_path / "marked", story())))


def test_page_says_which_files_are_not_as_they_were_archived(tmp_path: Path) -> None:
    """A core that was cut in the archive is missing evidence, though its step was ok."""
    files = {"segments/segments/0001": b"pr"}
    text = words(checked_page(text_of(tmp_path / "archive", story(missing=()), files=files)))
    assert "segments damaged: segments/segments/0001: 2 bytes instead of 6" in text
    assert "No evidence is missing" not in text


def test_page_rounds_a_stall_that_hardly_was(tmp_path: Path) -> None:
    """No power of ten at three in the morning."""
    memory = MemoryThen(available_bytes=1 << 30, total_bytes=1 << 31, stalled_percent=1.91e-05)
    assert "stalled 0 % of the time" in words(checked_page(text_of(tmp_path / "archive", story(memory=memory))))


def test_page_times_are_local_with_their_offset_and_utc_for_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ISO 8601 both."""
    import time

    monkeypatch.setenv("TZ", "Etc/GMT-5")
    time.tzset()
    try:
        text = text_of(tmp_path / "archive", story())
    finally:
        monkeypatch.undo()
        time.tzset()
    assert '<time datetime="2026-11-28T00:19:33.000Z">2026-11-28 05:19:33 +05:00</time>' in text


@pytest.mark.parametrize("hostile", HOSTILE)
def test_page_shows_hostile_text_as_text(tmp_path: Path, hostile: str) -> None:
    """In every field of the story, the manifest and the files that it is made of."""
    marked = f"mark{hostile}"
    frame = TraceFrame(module=marked, offset=marked, function=marked, source=marked)
    told = story(
        host=marked,
        kernel=marked,
        owner=marked,
        path=marked,
        pipeline=marked,
        subject=Subject(comm=marked, pid=PID, exe=marked, unit=marked),
        cause=Cause(said=marked, kind=marked, diagnosis=marked, signal=marked, code=marked, event=marked),
        kept=Kept(files=1, size_bytes=1, core=marked),
        trace=Backtraces(by=marked, threads=(ThreadTrace(tid=1, frames=(frame,), ended=marked),) * 3, problem=marked),
        signature=marked,
        signature_of=marked,
        build_id=marked,
        said=(LogLine(at=AT, text=marked, who=marked),),
        kernel_lines=(LogLine(at=None, text=marked, who=marked, matters=True),),
        missing=(Missing(step=marked, status=marked, reason=marked),),
        witnesses=(Witness(trigger=marked, at=AT, said=marked, doubtful=True),),
    )  # fmt: skip
    known = manifest()
    fit = "mark" + "".join(character for character in hostile if character != "\ud800")
    marker = msgspec.structs.replace(known.markers[0], trigger=fit, comm=fit, exe=fit, unit=fit, reason=fit)
    steps = tuple(msgspec.structs.replace(step, reason=fit) for step in known.steps)
    recorded = recorder_file().replace(b'"loop0"', msgspec.json.encode(fit))
    row = {"name": fit, "why": fit, "artifact": fit}
    files = {
        "recorder/recorder.jsonl": recorded,
        "segments/segments.jsonl": msgspec.json.encode(row) + b"\n",
        "core/threads.jsonl": msgspec.json.encode({"tid": 1, "registers": {fit: fit}}) + b"\n",
        "processes/processes.tsv": b"pid\tcomm\trss_kib\n7\t" + fit.encode().replace(b"\t", b"") + b"\t9\n",
    }
    text = text_of(tmp_path / "archive", told, msgspec.structs.replace(known, markers=(marker,), steps=steps), files)
    tree = checked_page(text)
    assert text.count("mark") >= 50
    assert "\u0301" * 3 not in text
    assert "alert" not in "".join(str(element.attrib) for element in tree.iter())


def test_page_of_a_crowd_of_threads_stays_below_its_bound(tmp_path: Path) -> None:
    """10,000 threads, each with a stack of its own and names that grow fivefold as markup."""
    name = "&<\"'" * 200
    threads = tuple(
        ThreadTrace(
            tid=PID + number,
            frames=tuple(
                TraceFrame(module="m", offset=hex(depth), function=f"{name}{number}", source=name)
                for depth in range(64)
            ),
        )
        for number in range(10_000)
    )
    told = story(
        trace=Backtraces(by=LIBDW, threads=threads),
        said=(LogLine(at=AT, text=name, who=name),) * 5000,
        kernel_lines=(LogLine(at=AT, text=name),) * 5000,
        missing=(Missing(step=name, status="failed", reason=name),) * 5000,
        witnesses=(Witness(trigger=name, at=AT + timedelta(seconds=1), said=name),) * 5000,
    )
    record = ArtifactRecord(path="core/threads.jsonl", size_bytes=1, data_bytes=1, source=name)
    step = StepRecord(id="core", collector="core", status=StepStatus.FAILED, reason=name, artifacts=(record,) * 20_000)
    rows = b"".join(b'{"name":"%d%s","why":"%s"}\n' % (n, b"&" * 500, b"&" * 500) for n in range(5000))
    known = manifest(steps=(*manifest().steps, step))
    full = recorder_file(4096, columns=tuple(column.name for column in COLUMNS[1:]))
    registers = b"".join(
        b'{"tid":%d,"registers":{%s}}\n' % (PID + n, b",".join(b'"r%d":"%s"' % (r, b"<" * 999) for r in range(99)))
        for n in range(100)
    )
    files = {
        "segments/segments.jsonl": rows,
        "recorder/recorder.jsonl": b"\n".join(
            line if number % 2 else re.sub(rb"\[([\d.]+),.*", rb"[\1]", line)
            for number, line in enumerate(full.splitlines(), start=1)
        ),
        "core/threads.jsonl": registers,
    }
    text = text_of(tmp_path / "archive", told, known, files)
    assert len(text.encode()) < MAX_BYTES
    tree = checked_page(text)
    for what in ("steps", "stacks", "lines", "segments", "rows", "files"):
        assert f"more {what} are left out of this page" in words(tree)


def test_page_shows_alike_threads_once(tmp_path: Path) -> None:
    """10,000 threads that wait in the same place are one entry, and a small page."""
    frame = TraceFrame(module="libc.so.6", offset="0x1", function="futex_wait")
    threads = tuple(ThreadTrace(tid=PID + number, frames=(frame,) * 5) for number in range(10_000))
    text = text_of(tmp_path / "archive", story(trace=Backtraces(by=LIBDW, threads=threads)))
    assert "10000 threads, 2 stacks" in words(checked_page(text))
    assert "9999 threads: " in words(checked_page(text))
    assert "5</strong>" in text
    assert len(text) < 200_000


def test_page_always_has_the_thread_that_crashed(tmp_path: Path) -> None:
    """Its innermost frames, however long their names; a recursion takes no room."""
    long = tuple(TraceFrame(module="m", offset=hex(n), function=f"f{n}" + "<" * 2000) for n in range(256))
    same = (TraceFrame(module="m", offset="0x1", function="recurse"),) * 250
    threads = (ThreadTrace(tid=PID, frames=long), ThreadTrace(tid=PID + 1, frames=same))
    text = words(checked_page(text_of(tmp_path / "archive", story(trace=Backtraces(by=LIBDW, threads=threads)))))
    assert "which crashed #0 f0<" in text
    assert re.search(r"\d+ more frames left out of this page", text)
    assert re.search(r"recurse m\+0x1 . 250", text)


def test_page_of_an_incident_that_knows_nothing_is_valid(tmp_path: Path) -> None:
    """A run by hand without any file."""
    told = Story(
        id=INCIDENT, state="complete", path="", pipeline="crash", at=None, ended=None, host="", kernel="",
        subject=Subject(), cause=Cause(said="collected by hand"), kept=Kept(files=0, size_bytes=0),
    )  # fmt: skip
    by_hand = Marker(kind=MarkerKind.MANUAL, trigger="manual", at_s=AT.timestamp())
    text = words(checked_page(text_of(tmp_path / "archive", told, manifest(steps=(), markers=(by_hand,), hold=None))))
    for words_ in ("collected by hand", "No evidence is missing.", "The incident has no recording"):
        assert words_ in text


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"[1,2\n", b"\xff\xfe\n", b"null\n" * 9, b"[]\n", b'{"a":' * 99])
def test_page_of_damaged_files_is_valid(tmp_path: Path, damage: bytes) -> None:
    """Whatever they hold, also behind a head that is one."""
    files = {name: damage for name, _ in FILES}
    checked_page(text_of(tmp_path / "first", story(), files=files))
    files = {name: data[: data.find(b"\n") + 1] + damage for (name, _), data in FILES.items()}
    checked_page(text_of(tmp_path / "second", story(), files=files))


def test_page_reads_no_file_that_is_not_one(tmp_path: Path) -> None:
    """A FIFO in place of a file is not waited for, nor a symlink followed."""
    archive = archived_story(tmp_path / "archive")
    for name, _ in FILES:
        (archive / INCIDENT / name).unlink()
    os.mkfifo(archive / INCIDENT / "recorder/recorder.jsonl")
    (tmp_path / "planted").write_bytes(b"pid\tcomm\trss_kib\n1\tplanted\t1\n")
    (archive / INCIDENT / "processes/processes.tsv").symlink_to(tmp_path / "planted")
    with ArchiveReader(str(archive)) as opened:
        text = words(checked_page("".join(page(opened, story()))))
    assert "The incident has no recording" in text
    assert "No table of processes was archived" in text


def test_page_of_amounts_beyond_reason_is_valid(tmp_path: Path) -> None:
    """Times and sizes that no calendar or disk has."""
    kept = Kept(files=1 << 60, size_bytes=1 << 62)
    changed = manifest(started_s=-1e18, ended_s=1e300)
    checked_page(text_of(tmp_path / "archive", story(kept=kept), changed))
