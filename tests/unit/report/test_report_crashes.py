"""Crashes and incidents for people: repeats are counted, and nothing is hidden by that."""

from __future__ import annotations

from collector.archive.ledger_reader import CountedRow, LedgerRow, Said
from collector.archive.summary import IncidentSummary
from collector.model.case import Fate
from collector.report.crashes import NEIGHBOURHOOD, counted_lines, folded
from collector.report.grouping import grouped
from collector.report.signatures import SameCrash


def row(number: int, fate: Fate = Fate.SUPPRESSED, **known: object) -> LedgerRow:
    facts: dict[str, object] = {
        "id": number, "at_s": 1000.0 + number, "trigger": "exits", "fate": fate, "reason": "over", "owner": "root",
        "incident": None, "case": number, "executable": "/engine (uid 7)", "said": Said(comm="engine", signal=11),
    }  # fmt: skip
    return LedgerRow(**(facts | known))  # type: ignore[arg-type]


def test_repeats_fold_into_one_line() -> None:
    """Also where two loops alternate: 994 repeats are a number, at the place of the first."""
    other = {"executable": "/other (uid 7)", "said": Said(comm="other", signal=6)}
    rows = [row(number, **(other if number % 2 else {})) for number in range(1, 1001)]
    lines = folded(rows)
    assert [(line.comm, line.count, line.first_s, line.last_s) for line in lines] == [
        ("other", 500, 1001.0, 1999.0),
        ("engine", 500, 1002.0, 2000.0),
    ]


def test_repeats_with_another_fate_reason_or_signal_are_another_line() -> None:
    """And those of another program."""
    rows = [row(1), row(2, Fate.REFUSED), row(3, reason="x"), row(4, said=Said(comm="engine", signal=6))]
    assert [line.count for line in folded([*rows, row(5, executable="/x (uid 7)")])] == [1] * 5


def test_repeats_fold_only_in_the_neighbourhood() -> None:
    """By the ledger's count, whatever its times say."""
    rows = [row(1, at_s=9e9), row(1 + NEIGHBOURHOOD, at_s=1.0), row(2 + 2 * NEIGHBOURHOOD)]
    assert [(line.count, line.first_s) for line in folded(rows)] == [(2, 9e9), (1, 3002.0)]


def test_crashes_with_incidents_of_their_own_stay_apart() -> None:
    """Each is a line with its incident; what also saw it is beside the first trigger."""
    rows = [
        row(1, Fate.COLLECTED, incident="a"),
        row(2, Fate.JOINED, case=1, incident="a", trigger="kernel_log"),
        row(3, Fate.JOINED, case=1, incident="a", trigger="kernel_log"),
        row(4, Fate.COLLECTED, incident="b"),
        row(5, Fate.UNATTRIBUTED, case=4, incident="b"),
        row(6, Fate.JOINED, case=99, incident="c"),
    ]
    lines = folded(rows)
    assert [(line.incident, line.triggers, line.fate, line.count) for line in lines] == [
        ("a", ["exits", "kernel_log"], "collected", 1),
        ("b", ["exits"], "collected", 1),
        ("b", ["exits"], "unattributed", 1),
        ("c", ["exits"], "joined", 1),
    ]


def test_counts_of_a_kind_are_added_up() -> None:
    """Of one owner, trigger, fate and reason, unless each minute is asked for."""
    rows = [CountedRow(minute, "uid 7", "exits", "suppressed", "over", 5) for minute in (3, 1, 2)]
    rows.append(CountedRow(2, "uid 8", "exits", "suppressed", "over", 1))
    lines = counted_lines(rows, fold=True)
    assert [(line.owner, line.count, line.first_s, line.last_s) for line in lines] == [
        ("uid 7", 15, 60.0, 180.0),
        ("uid 8", 1, 120.0, 120.0),
    ]
    assert [line.count for line in counted_lines(rows, fold=False)] == [5, 5, 1, 5]


def test_incidents_group_by_what_they_have_in_common() -> None:
    """The most frequent first; first and last by the archive's count, not by the clock."""

    def summary(number: int, **known: object) -> IncidentSummary:
        facts: dict[str, object] = {
            "id": f"i{number}", "state": "complete", "started_s": float(-number), "ended_s": 1.0, "trigger": "exits",
            "reason": "", "size_bytes": 1, "steps": {}, "number": number, "comm": "engine", "signal": 11,
        }  # fmt: skip
        return IncidentSummary(**(facts | known))  # type: ignore[arg-type]

    found = [
        summary(1, owner="uid 7", unit="a.service"),
        summary(2, owner="root/x", signal=None, exit_status=3),
        summary(3, owner="root", unit="b.service"),
    ]
    groups = grouped(found, lambda one: SameCrash("signature", "sig1:x" if one.signal else "sig1:y"))
    assert [(one.key, one.count, one.first_s, one.last_s, one.latest, one.users, one.units) for one in groups] == [
        ("sig1:x", 2, -1.0, -3.0, "i3", ("root", "uid 7"), ("a.service", "b.service")),
        ("sig1:y", 1, -2.0, -2.0, "i2", ("root",), ()),
    ]
    assert groups[1].ended_by == "exit 3"


def test_crash_line_has_the_signal_that_a_later_witness_tells() -> None:
    """A dump is announced before its signal is known; of repeats in one line, each may have had another."""
    dumping, exited = Said(comm="engine"), Said(comm="engine", signal=11)
    for incident, shown in (("i1", "SIGSEGV"), (None, "-")):
        rows = [row(1, said=dumping, incident=incident), row(2, Fate.JOINED, said=exited, case=1, incident=incident)]
        assert [line.ended_by for line in folded(rows)] == [shown]
