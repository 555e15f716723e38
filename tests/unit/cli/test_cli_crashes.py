"""`collector crashes`: what it finds of the ledger, and what its exit status says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from collector.archive.ledger import Ledger
from collector.cli.crashes import crashes_command
from collector.model.case import Fate
from collector.model.marker import Marker, MarkerKind, ProcessRef

PID = 4_000_077


def marker(**known: Any) -> Marker:
    facts = {"comm": "engine", "exe": "/opt/engine", "uid": 7, "signal": 11, "unit": "engine.service"} | known
    trigger = facts.pop("trigger", "exits")
    process = ProcessRef(pid=PID, start_time_ticks=1)
    return Marker(kind=MarkerKind.EXIT, trigger=trigger, at_s=1.0, process=process, **facts)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive whose ledger has one crash with two witnesses, 994 repeats, one of another user, and counted ones."""
    tmp_path.chmod(0o700)
    ledger = Ledger(str(tmp_path / "ledger.sqlite"))
    with ledger.batch():
        case = ledger.record(marker(), pipeline="crash", owner="uid 7")
        for trigger in ("kernel_log", "journal"):
            witness = ledger.record(marker(trigger=trigger), pipeline="crash", owner="uid 7")
            ledger.decide(witness, Fate.JOINED, case=case)
        ledger.begin(case, "20261128T000000.000000Z-aaaaaa")
        ledger.finish(case, Fate.COLLECTED, incident="20261128T000000.000000Z-aaaaaa")
        for _ in range(994):
            repeat = ledger.record(marker(), pipeline="crash", owner="uid 7")
            ledger.decide(repeat, Fate.SUPPRESSED, reason="over storm.per_executable")
        other = marker(comm="\x1b[2Jfeeder", uid=0, unit=None, signal=None, exit_status=3, exe=None)
        ledger.decide(ledger.record(other, pipeline="", owner="root/feeder"), Fate.REFUSED, reason="says\nwho")
        for _ in range(5):
            number = ledger.announce(marker(), pipeline="crash", owner="uid 7")
            ledger.decide(number, Fate.SUPPRESSED, reason="over storm.per_executable")
    ledger.close()
    return tmp_path


def told(archive: Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(crashes_command, [*words, "--archive", str(archive)], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.return_value, done.output


def found(archive: Path, *words: str) -> list[dict[str, Any]]:
    return json.loads(told(archive, *words, "--json")[1])["crashes"]


def test_crashes_are_all_accounted_for(archive: Path) -> None:
    """Each with its fate and reason; repeats and witnesses are one line with the crash, or one each with --all."""
    status, text = told(archive)
    assert status == 0
    head, *lines = [line.split() for line in text.splitlines()]
    assert head[-2:] == ["FATE", "INCIDENT/REASON"]
    assert [line[-1] for line in lines][1] == "20261128T000000.000000Z-aaaaaa"
    assert "only counted: beyond the share of its user" in text.splitlines()[1]
    assert [(one["count"], one["fate"], one["triggers"]) for one in found(archive)] == [
        (5, "suppressed", ["exits"]),
        (1, "collected", ["exits", "kernel_log", "journal"]),
        (994, "suppressed", ["exits"]),
        (1, "refused", ["exits"]),
    ]
    every = found(archive, "--all")
    assert sum(one["count"] for one in every) == 5 + 3 + 994 + 1
    assert len(every) == 1 + 3 + 994 + 1
    assert "\N{MULTIPLICATION SIGN}994  suppressed  over storm.per_executable, until 2" in text


@pytest.mark.parametrize(
    ("words", "counts"),
    [
        (["--comm", "engine"], [1, 994]),
        (["--comm", "*feeder"], [1]),
        (["--unit", "engine.service"], [1, 994]),
        (["--unit", "*.timer"], []),
        (["--fate", "suppressed"], [5, 994]),
        (["--fate", "refused", "--fate", "collected"], [1, 1]),
        (["--fate", "joined"], [1, 1]),
        (["--trigger", "kernel_*"], [1]),
        (["--owner", "uid 7"], [5, 1, 994]),
        (["--owner", "root"], [1]),
        (["--uid", "0"], [1]),
        (["--uid", "7", "--fate", "collected"], [1]),
        (["--since", "1h"], [5, 1, 994, 1]),
        (["--until", "1h"], []),
        (["-n", "2"], [994, 1]),
        (["-r", "-n", "2"], [1, 994]),
        (["--reverse"], [1, 994, 1, 5]),
    ],
    ids=lambda part: " ".join(map(str, part)),
)
def test_crashes_are_found_by_what_is_known_of_them(archive: Path, words: list[str], counts: list[int]) -> None:
    """Of those without a row, neither command nor unit is known: they match none."""
    assert [one["count"] for one in found(archive, *words)] == counts
    assert told(archive, *words)[0] == (0 if counts else 1)


def test_crashes_shows_no_control_character(archive: Path) -> None:
    """Names and reasons are what somebody chose; the head can be left out."""
    _, text = told(archive, "--no-legend", "--fate", "refused")
    assert text.count("\n") == 1
    assert text.replace("\n", "").isprintable()
    assert "\\x1b[2Jfeeder" in text
    assert " exit 3 " in text


def test_crashes_says_what_it_cannot_read(archive: Path) -> None:
    """And shows the rest; the status is that of `verify`."""
    (archive / "ledger.sqlite.damaged").write_bytes(b"")
    status, text = told(archive)
    assert status == 73
    assert "collector: an earlier ledger was damaged" in text
    assert "refused" in text
    assert len(json.loads(told(archive, "--json")[1])["problems"]) == 1


def test_crashes_without_a_ledger_says_so(tmp_path: Path) -> None:
    """That is no error: only a daemon makes one."""
    tmp_path.chmod(0o700)
    assert told(tmp_path) == (0, "there is no ledger: no daemon has run with this archive\n")
    assert list(tmp_path.iterdir()) == []
    Ledger(str(tmp_path / "ledger.sqlite")).close()
    assert told(tmp_path) == (0, "nothing was recorded yet\n")


def test_crashes_finds_the_archive_of_the_configuration(archive: Path, tmp_path: Path) -> None:
    """As all verbs do; another archive can be named."""
    config = tmp_path / "collector.yaml"
    config.write_text(f"version: 1\narchive: {{path: {archive}}}\n", encoding="utf-8")
    done = CliRunner().invoke(crashes_command, ["--config", str(config), "-n", "1", "--no-legend"])
    assert done.output.endswith("refused  says\\x0awho\n")
