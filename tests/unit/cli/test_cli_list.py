"""`collector list`: what it finds, how it shows it, and what its exit status says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import termios
import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from collector.archive import layout
from collector.archive.read import encode_manifest
from collector.archive.seal import seal
from collector.archive.store import Store
from collector.cli.listing import list_command
from collector.cli.table import TableColumn, fit
from collector.cli.time_range import moment_s
from collector.model.artifact import ArtifactRecord
from collector.model.errors import UsageError
from collector.model.incident import IncidentHeader, IncidentState, Manifest, StepRecord, StepStatus
from collector.model.marker import Marker, MarkerKind, ProcessRef

PID = 4_000_077
HOUR = 3600.0


def put(archive: Path, number: int, *, signature: str = "", age_s: float = 0.0, **known: Any) -> str:
    """Put a sealed incident into the archive; return its id."""
    known = {
        "comm": "engine",
        "exe": "/opt/engine/bin/engine",
        "uid": 7,
        "signal": 11,
        "unit": "engine.service",
    } | known
    steps: tuple[StepRecord, ...] = known.pop("steps", ())
    marker = Marker(
        kind=MarkerKind.EXIT, trigger="exits", at_s=1.0, reason="why",
        process=ProcessRef(pid=known.pop("pid", PID + number), start_time_ticks=1), **known,
    )  # fmt: skip
    core = ArtifactRecord(path="core/core.json", size_bytes=1, data_bytes=1 << 20)
    step = StepRecord(id="core", collector="core", status=StepStatus.OK, artifacts=(core,))
    begun_s = time.time() - age_s
    name = f"20261128T{number:06}.000000Z-{number:06x}"
    manifest = Manifest(
        version=1, id=name, pipeline="crash", markers=(marker,), host="box", boot_id="b", kernel="6.18",
        collector_version="0", config_hash="c", started_s=begun_s, planned=("core", *(one.id for one in steps)),
        optional=("extra",), state=IncidentState.COMPLETE, ended_s=begun_s + 1, steps=(step, *steps), number=number,
        owner=f"uid {known['uid']}",
    )  # fmt: skip
    (archive / name / "core").mkdir(mode=0o700, parents=True)
    (archive / name / "core/core.json").write_bytes(msgspec.json.encode({"signature": signature}))
    (archive / name / layout.MANIFEST).write_bytes(encode_manifest(manifest))
    return name


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "archive"
    path.mkdir(mode=0o700)
    return path


def listed(archive: Path, *words: str) -> tuple[int, str]:
    """Return exit status, and all that is printed."""
    done = CliRunner().invoke(list_command, [*words, "--archive", str(archive)], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.return_value, done.output


def ids(archive: Path, *words: str) -> list[int]:
    """Return the numbers of the incidents that are found."""
    _, text = listed(archive, *words, "--json")
    return [one["number"] for one in json.loads(text)["incidents"]]


@pytest.fixture
def known(archive: Path) -> Path:
    put(archive, 1, age_s=50 * HOUR)
    put(archive, 2, age_s=2 * HOUR, signal=6, pid=PID)
    put(archive, 3, age_s=HOUR, comm="a-very-long-nam", exe="/opt/other/a-very-long-name", unit="other.service", uid=8)
    put(
        archive,
        4,
        comm="python3",
        exe="/usr/bin/python3.11",
        unit=None,
        signal=None,
        exit_status=3,
        signature="sig1:ab",
    )
    return archive


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], [1, 2, 3, 4]),
        ([str(PID)], [2]),
        ([f"COREDUMP_PID={PID}", "COREDUMP_UID=7"], [2]),
        (["20261128"], [1, 2, 3, 4]),
        (["ID=20261128T000003"], [3]),
        (["000abc"], []),
        (["engine"], [1, 2]),
        (["engine", "python3"], [1, 2, 4]),
        (["engine", "ABRT"], [2]),
        (["SIGSEGV", "SIGABRT"], [1, 2, 3]),
        (["11"], [1, 3]),
        (["PID=11"], []),
        (["engine.service", "SEGV"], [1]),
        (["/opt/engine/bin/engine"], [1, 2]),
        (["/opt/*"], [1, 2, 3]),
        (["a-very-long-name"], [3]),
        (["a-very-long-name-cut-by-the-kernel"], [3]),
        (["python3.11"], [4]),
        (["UID=8"], [3]),
        (["OWNER=uid 7", "SEGV"], [1]),
        (["signal=abrt"], [2]),
        (["sig1:ab"], [4]),
        (["sig1:*"], [4]),
        (["20261128T000003"], [3]),
        (["STATE=incomplete"], []),
        (["eng"], []),
        (["--since", "90m"], [3, 4]),
        (["--since", "90m", "--until", "30m"], [3]),
        (["--until", "1d"], [1]),
        (["-n", "2"], [3, 4]),
        (["-r"], [4, 3, 2, 1]),
        (["--reverse", "-n", "1"], [4]),
        (["-n", "0"], []),
        (["SEGV", "-n", "1"], [3]),
    ],
    ids=lambda part: " ".join(map(str, part)),
)
def test_list_finds_as_coredumpctl_does(known: Path, words: list[str], found: list[int]) -> None:
    """Of one kind of MATCH any may fit, of each kind one has to; the newest N of those."""
    assert ids(known, *words) == found


@pytest.mark.parametrize(
    "words", [["SIGNAL=SIGNOT"], ["COLOUR=red"], ["COREDUMP_HOSTNAME=x"], ["--since", "soon"], ["--until", "25:00"]]
)
def test_list_refuses_what_nothing_can_match(known: Path, words: list[str]) -> None:
    """A mistake must not look as if nothing had crashed."""
    with pytest.raises(UsageError):
        listed(known, *words)


def test_list_finds_an_incident_by_the_end_of_its_id(archive: Path) -> None:
    """A terminal shows nothing else of it."""
    put(archive, 0xAB12)
    put(archive, 0xAB13)
    assert ids(archive, "00ab12") == ids(archive, "ID=00ab12") == [0xAB12]


def test_list_finds_by_what_only_the_core_knows(archive: Path) -> None:
    """Who finds a compressed core file knows its name, and of another one not where its program was."""
    name = put(archive, 1, comm=None, exe=None, signal=None)
    core = {"program": "/opt/engine/bin/engine", "command": "engine", "signal": {"number": 11, "name": "SIGSEGV"}}
    (archive / name / "core/core.json").write_bytes(msgspec.json.encode(core))
    assert ids(archive, "/opt/engine/bin/engine", "engine", "SEGV") == [1]
    assert "SIGSEGV" in listed(archive)[1]


def test_list_of_none_does_not_say_that_the_archive_is_empty(known: Path) -> None:
    assert listed(known, "-n", "0") == (0, "")


def test_list_without_a_match_is_status_1(known: Path, archive: Path) -> None:
    """As with grep; an archive without incidents is none."""
    assert listed(known, "nobody") == (1, "no incident matches\n")
    assert json.loads(listed(known, "nobody", "--json")[1]) == {"incidents": [], "problems": []}
    empty = archive / "empty"
    empty.mkdir(mode=0o700)
    assert listed(empty) == (0, "the archive is empty\n")
    assert listed(empty, "x")[0] == 1


def test_list_has_a_line_for_each_damaged_incident(known: Path) -> None:
    """Also beside matches, which it may have fitted; the status says that something is wrong."""
    bad = put(known, 5)
    (known / bad / layout.MANIFEST).write_bytes(b"{")
    for words in ([], ["nobody"], ["--group"]):
        status, text = listed(known, *words)
        assert status == 73
        assert sum(bad in line for line in text.splitlines()) == 1
    status, text = listed(known, "--json")
    assert (status, len(json.loads(text)["problems"])) == (73, 1)


def test_list_says_what_is_missing_and_why(archive: Path) -> None:
    """Required steps only: those that failed, and those that never ran; in a pipe with the reason."""
    steps = (
        StepRecord(id="shm", collector="shm", status=StepStatus.SKIPPED, reason="no \x1b[2Jroom"),
        StepRecord(id="extra", collector="x", status=StepStatus.FAILED, reason="optional"),
        StepRecord(id="log", collector="x", status=StepStatus.NOT_APPLICABLE, reason="none"),
    )
    name = put(archive, 1, steps=steps)
    path = archive / name / layout.MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"shm"', b'"shm","late"', 1))
    _, text = listed(archive, "--no-legend")
    assert text.rstrip("\n").endswith("  shm: skipped: no \\x1b[2Jroom; late: never run")
    assert "\x1b" not in text
    assert ids(archive, "MISSING=late") == [1]
    assert ids(archive, "MISSING=extra") == []


def test_list_in_a_pipe_is_one_whole_line_an_incident(known: Path) -> None:
    """With a head unless it is not wanted; an empty cell is a dash, so that columns can be counted."""
    _, text = listed(known)
    head, *lines = text.splitlines()
    assert head.split() == ["ID", "TIME", "PID", "UID", "SIG", "STATE", "SIZE", "EXE", "UNIT", "MISSING"]
    assert len(lines) == 4
    assert lines[3].split()[-4:] == ["MiB", "/usr/bin/python3.11", "-", "-"]
    assert " exit 3 " in lines[3]
    assert re.search(r" \d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d\d:\d\d ", lines[0])
    assert [line.split() for line in listed(known, "--no-legend")[1].splitlines()] == [line.split() for line in lines]


@pytest.mark.parametrize("width", [40, 80, 132, 300])
def test_list_on_a_terminal_fits_its_width(known: Path, width: int) -> None:
    """As far as what must be whole does: the ends of ids, times, PIDs, signals."""
    put(known, 5, comm="e" * 15, exe="/opt/" + "e" * 200, unit="u" * 200 + ".service")
    for words in ((), ("--group",)):
        text = on_terminal(width, "list", "--archive", str(known), *words)
        longest = max(map(len, text.splitlines()))
        assert longest <= max(width, 72)
        assert "000005" in text or width < 80


def on_terminal(width: int, *words: str) -> str:
    ours, theirs = os.openpty()
    try:
        termios.tcsetwinsize(theirs, (24, width))
        command = [sys.executable, "-m", "collector.cli.main", *words]
        subprocess.run(command, stdout=theirs, env={**os.environ, "LC_ALL": "C.UTF-8"}, check=True)
        return os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)


def test_list_groups_by_signature(archive: Path) -> None:
    """What has none is counted by executable and signal, and says so; a core that cannot be read has none."""
    for number in (1, 2, 4):
        put(archive, number, signature="sig1:ab", uid=number, age_s=HOUR * (5 - number))
    put(archive, 3)
    bad = put(archive, 5)
    (archive / bad / "core/core.json").write_bytes(b"{")
    groups = json.loads(listed(archive, "--group", "--json")[1])["groups"]
    assert [(one["by"], one["key"], one["count"]) for one in groups] == [
        ("signature", "sig1:ab", 3),
        ("executable", "/opt/engine/bin/engine SIGSEGV", 2),
    ]
    assert groups[0]["users"] == ["uid 1", "uid 2", "uid 4"]
    first, last = (datetime.fromisoformat(groups[0][key]) for key in ("first", "last"))
    assert timedelta(hours=2.9) < last - first < timedelta(hours=3.1)
    text = listed(archive, "--group")[1]
    assert "executable: /opt/engine/bin/engine SIGSEGV" in text
    assert listed(archive, "--group", "SIGABRT")[0] == 1


def test_list_follows_no_path_out_of_the_archive(archive: Path, tmp_path: Path) -> None:
    """Of core.json a manifest says where it is."""
    (tmp_path / "core.json").write_bytes(msgspec.json.encode({"signature": "sig1:stolen"}))
    name = put(archive, 1)
    path = archive / name / layout.MANIFEST
    path.write_bytes(path.read_bytes().replace(b"core/core.json", b"../../core.json"))
    assert "stolen" not in listed(archive, "--json")[1]
    (archive / name / "core/core.json").unlink()
    (archive / name / "core/core.json").symlink_to(tmp_path / "core.json")
    path.write_bytes(path.read_bytes().replace(b"../../core.json", b"core/core.json"))
    assert "stolen" not in listed(archive, "--json")[1]


def test_list_shows_the_bytes_of_an_incident_in_progress(archive: Path) -> None:
    """Those written, not those reserved for a copy, and the average rate; while somebody holds its lock."""
    store = Store(str(archive))
    header = IncidentHeader(
        version=1, id=layout.new_id(time.time()), pipeline="p", host="", boot_id="", kernel="", collector_version="",
        config_hash="", started_s=time.time() - 10, planned=("segments",),
        markers=(Marker(kind=MarkerKind.MANUAL, trigger="manual", at_s=1.0),),
    )  # fmt: skip
    lock = store.begin(header)
    step = archive / f"{header.id}.partial" / "segments"
    step.mkdir()
    with (step / "0001.part").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 64 << 20)
        file.write(bytes(1 << 20))
    (one,) = json.loads(listed(archive, "--json")[1])["incidents"]
    assert (one["state"], one["ended"]) == ("running", None)
    assert 1 << 20 <= one["size_bytes"] < 2 << 20
    assert 50_000 < one["running"]["bytes_per_s"] < 110_000
    assert re.search(r"  running  .* KiB/s for \d+ s$", listed(archive)[1].splitlines()[1])
    os.close(lock)
    (one,) = json.loads(listed(archive, "--json")[1])["incidents"]
    assert (one["state"], one["running"]) == ("unfinished", None)
    seal(store, header.id, ended_s=1.0, interrupted=True)
    (one,) = json.loads(listed(archive, "--json")[1])["incidents"]
    assert one["state"] == "interrupted"


def test_list_is_in_the_order_of_the_archive(archive: Path) -> None:
    """By its count, whatever ids and times say."""
    put(archive, 9, age_s=0)
    name = put(archive, 8, age_s=-HOUR)
    path = archive / name / layout.MANIFEST
    path.write_bytes(re.sub(rb'"number": 8\b', b'"number": 99', path.read_bytes()))
    assert ids(archive) == [9, 99]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", "2026-11-28 14:30:10"), ("today", "2026-11-28 00:00:00"), ("yesterday", "2026-11-27 00:00:00"),
        ("14:05", "2026-11-28 14:05:00"), ("9:00:01", "2026-11-28 09:00:01"), ("1h30m", "2026-11-28 13:00:10"),
        ("2d ago", "2026-11-26 14:30:10"), ("-10m", "2026-11-28 14:20:10"), ("2026-11-01", "2026-11-01 00:00:00"),
        ("2026-11-01 14:00", "2026-11-01 14:00:00"), ("2026-11-01T14:00:05", "2026-11-01 14:00:05"),
    ],
)  # fmt: skip
def test_moment_is_read_as_people_write_it(text: str, expected: str) -> None:
    """Local times, as they are shown."""
    now_s = datetime.fromisoformat("2026-11-28 14:30:10").timestamp()
    assert moment_s(text, now_s) == datetime.fromisoformat(expected).timestamp()


def test_moment_with_an_offset_is_that() -> None:
    """What `list` shows can be pasted, and what --json has; seconds since the epoch after an @."""
    for text in ("2026-11-28 15:00:00 +01:00", "2026-11-28T15:00:00+01:00", "2026-11-28T14:00:00Z", "@1795874400"):
        assert moment_s(text, 0.0) == 1795874400.0


@pytest.mark.parametrize("text", ["", "soon", "24:00", "2026-13-01", "9999999999999d", "@x", "1", "0000-00-00"])
def test_moment_that_is_none_is_refused(text: str) -> None:
    """Whatever is written, with the same sentence; a bare number is seconds nowhere else."""
    if text == "1":
        assert moment_s(text, 5.0) == 4.0
        return
    with pytest.raises(ValueError, match="is not an age"):
        moment_s(text, 1e9)


def fitted_to(available: int, columns: Iterable[TableColumn], widths: list[int]) -> tuple[list[int], list[int]]:
    left = list(widths)
    return fit(list(columns), left, available), left


def test_table_leaves_out_by_rank_what_does_not_fit_even_if_cut() -> None:
    """Texts are cut first, down to eight columns, the widest most."""
    columns = [
        TableColumn("A"),
        TableColumn("B", elastic=True),
        TableColumn("C", rank=1),
        TableColumn("D", elastic=True, rank=2),
    ]
    assert fitted_to(100, columns, [5, 10, 5, 20]) == ([0, 1, 2, 3], [5, 10, 5, 20])
    assert fitted_to(40, columns, [5, 10, 5, 20]) == ([0, 1, 2, 3], [5, 10, 5, 14])
    assert fitted_to(31, columns, [5, 10, 5, 20]) == ([0, 1, 2], [5, 10, 5, 20])
    assert fitted_to(16, columns, [5, 10, 5, 20])[0] == [0, 1]
    assert fitted_to(1, columns, [5, 10, 5, 20]) == ([0, 1], [5, 8, 5, 20])
