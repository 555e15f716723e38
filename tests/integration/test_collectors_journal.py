"""The last lines of a unit and a process, from files that systemd's own code wrote."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from collecting import collect, context
from journal_lab import PID, UNIT, JournalLab, crash, messages, of_unit, run

from collector.collectors.journal import journal_search
from collector.collectors.journal.journal import AFTER_LINES, Journal
from collector.collectors.journal.journal_query import JournalQuery
from collector.collectors.journal.journal_search import JournalSearch
from collector.host.process_identity import system_unit_of
from collector.host.procfs import CLOCK_TICKS_PER_S
from collector.model.marker import SYSTEM_UNIT, Marker, MarkerKind, ProcessRef
from collector.model.redaction import Redaction

OTHER_BOOT = "f" * 32
IN_USER_SLICE = f"0::/user.slice/user-1000.slice/user@1000.service/app.slice/{UNIT}"


def system_unit(cgroup: str) -> dict[str, str]:
    """Return the attribute that the marker of a process in *cgroup* has."""
    found = system_unit_of(f"{cgroup}\n".encode())
    return {SYSTEM_UNIT: found} if found else {}


@pytest.fixture
def lab(tmp_path: Path) -> JournalLab:
    return JournalLab(tmp_path / "root")


def test_journal_is_what_journalctl_shows_of_the_unit(lab: JournalLab) -> None:
    """The same lines in the same order, from several files; `journalctl` reads them by systemd's own code."""
    lab.write((lab.entry(100 - n, f"old {n}", **of_unit(UNIT)) for n in range(40)), "system@1.journal")
    units = (UNIT, "other.service")
    lab.write(lab.entry(50 - n * 0.01, f"line {n}", **of_unit(units[n % 2], PID + n % 2)) for n in range(400))
    lab.write((lab.entry(20.5 - n, f"user {n}", **of_unit(UNIT, PID + 2)) for n in range(20)), "user-1000.journal")
    got = run(lab, crash(lab), lines=200)
    theirs = [json.loads(line) for line in lab.journalctl("-u", UNIT, "-n", "200", "-o", "json").splitlines()]
    assert len(theirs) == 200
    assert set(messages(got)) >= {row["MESSAGE"] for row in theirs}
    rows = got.rows("journal.jsonl")
    assert [row["time_s"] for row in rows] == sorted(row["time_s"] for row in rows)
    ours = {row["fields"]["MESSAGE"]: row for row in rows}
    for row in theirs:
        mine = ours[row["MESSAGE"]]
        assert mine["fields"] == {name: value for name, value in row.items() if not name.startswith("__")}
        assert round(mine["time_s"] * 1e6) == int(row["__MONOTONIC_TIMESTAMP"])
        assert round(mine["wall_s"] * 1e6) == int(row["__REALTIME_TIMESTAMP"])
    assert (got.missing, got.error) == ("", None)


def test_journal_text_is_one_entry_after_the_other(lab: JournalLab) -> None:
    """Time, sender, priority; a message's further lines are indented, so that none can look like another entry."""
    lab.write([lab.entry(2, "Traceback:\n[ 1.0] kernel[0] emerg: no", PRIORITY=3, **of_unit(UNIT))])
    (line, further) = run(lab, crash(lab)).text("journal.txt").splitlines()
    assert line.endswith(f" engine[{PID}] err: Traceback:")
    assert further.startswith("    [ 1.0]")


@pytest.mark.parametrize("sender", [{"_UID": 0}, {"_UID": 1000, "_SYSTEMD_SLICE": r"system-systemd\x2dcoredump.slice"}])
def test_journal_takes_what_systemd_says_of_the_unit(lab: JournalLab, sender: dict[str, object]) -> None:
    """How the process ended is in the lines of PID 1 and of systemd-coredump, after the crash."""
    ended = {"_PID": 1, "_UID": 0, "_SYSTEMD_UNIT": "init.scope", "UNIT": UNIT}
    dumped = {"COREDUMP_UNIT": UNIT, "MESSAGE_ID": "fc2e22bc6ee647b6b90729ab34a250b1"} | sender
    lab.write(
        [
            lab.entry(9, "last words", **of_unit(UNIT)),
            lab.entry(4, "Main process exited, code=dumped", **ended),
            lab.entry(3, "Process 4000077 dumped core.", COREDUMP_ENVIRON="PASSWORD=x", **dumped),
        ]
    )
    got = run(lab, crash(lab, age_s=5))
    assert messages(got) == ["last words", "Main process exited, code=dumped", "Process 4000077 dumped core."]
    assert "COREDUMP_ENVIRON" not in got.rows("journal.jsonl")[2]["fields"]
    assert got.text("journal.txt").splitlines()[1].startswith("-- here the crash was noticed")


FORGED = {
    "a unit's name from somebody else": {**of_unit("evil.service", 4000078), "UNIT": UNIT},
    "an object from somebody else": {**of_unit("evil.service", 4000078), "OBJECT_SYSTEMD_UNIT": UNIT},
    "a core from somebody else": {
        **of_unit("evil.service", 4000078),
        "COREDUMP_UNIT": UNIT,
        "MESSAGE_ID": "fc2e22bc6ee647b6b90729ab34a250b1",
    },
    "suppression from somebody else": {
        **of_unit("evil.service", 4000078),
        "MESSAGE_ID": "a596d6fe7bfa4994828e72309e95d61e",
    },
    "another unit": of_unit("engine2.service", 4000078),
}


@pytest.mark.parametrize("fields", FORGED.values(), ids=list(FORGED))
def test_journal_has_no_line_of_others(lab: JournalLab, fields: dict[str, object]) -> None:
    """Anybody may write any field that does not begin with an underscore."""
    message = f"Suppressed 9 messages from {UNIT}"
    lab.write([lab.entry(3, message, **fields), lab.entry(2, "mine", **of_unit(UNIT))])
    got = run(lab, crash(lab))
    assert (messages(got), got.missing) == (["mine"], "")


def test_journal_has_no_line_of_who_had_the_number_before_or_has_it_now(lab: JournalLab) -> None:
    """A process without a unit is known by its number, from its start until its crash was noticed."""
    lines = [(30, "earlier"), (8, "its own"), (2, "later")]
    lab.write(lab.entry(age, message, _PID=PID, _UID=1000) for age, message in lines)
    assert messages(run(lab, crash(lab, age_s=5, lived_s=10, unit=None, attributes={}))) == ["its own"]


def test_journal_has_no_line_of_another_boot(lab: JournalLab) -> None:
    """The same number, the same unit, the same seconds since boot."""
    old = [lab.entry(9 - n, "old", boot=OTHER_BOOT, **of_unit(UNIT)) for n in range(5)]
    lab.write([*old, lab.entry(2, "new", **of_unit(UNIT))])
    lab.write(old, "system@old.journal")
    assert messages(run(lab, crash(lab))) == ["new"]


def test_journal_goes_back_as_far_as_it_is_told(lab: JournalLab) -> None:
    """From the crash, not from now."""
    lab.write(lab.entry(age, f"{age}", **of_unit(UNIT)) for age in (95, 85, 45, 5))
    assert messages(run(lab, crash(lab, age_s=40), since=50.0)) == ["85", "45", "5"]


def test_journal_keeps_the_last_lines_before_a_unit_that_was_started_again(lab: JournalLab) -> None:
    """A new start that says much must not push the old one's last words out."""
    before = [lab.entry(60 - n * 0.1, f"before {n}", **of_unit(UNIT)) for n in range(300)]
    after = [lab.entry(20 - n * 0.001, f"after {n}", **of_unit(UNIT, PID + 1)) for n in range(3000)]
    lab.write([*before, *after])
    got = messages(run(lab, crash(lab, age_s=25)))
    assert got == [f"before {n}" for n in range(100, 300)] + [f"after {n}" for n in range(AFTER_LINES)]


def test_journal_of_a_process_is_not_crowded_out_by_its_siblings(lab: JournalLab) -> None:
    """The process has as many lines of its own as all of its unit."""
    own = [lab.entry(60, "mine", **of_unit(UNIT))]
    lab.write([*own, *(lab.entry(50 - n * 0.1, f"{n}", **of_unit(UNIT, PID + 1)) for n in range(300))])
    got = messages(run(lab, crash(lab)))
    assert (got[0], len(got)) == ("mine", 201)


def test_journal_of_a_users_own_unit_is_that_users(lab: JournalLab) -> None:
    """Two users, and the system, may have units of one name; of a session, too, only the user's lines count."""
    fields = {"_SYSTEMD_USER_UNIT": UNIT, "_SYSTEMD_UNIT": "user@1000.service"}
    lines = [lab.entry(9 - n, f"{uid}", _PID=4000080 + n, _UID=uid, **fields) for n, uid in enumerate((1000, 1001))]
    systems = lab.entry(5, "the system's", **of_unit(UNIT, PID + 1, uid=0))
    started = lab.entry(4, "the system's was started", _PID=1, _UID=0, UNIT=UNIT)
    session = [lab.entry(3, f"session {uid}", **of_unit("session-3.scope", PID + 2, uid=uid)) for uid in (1000, 0)]
    lab.write([*lines, systems, started, *session])
    assert messages(run(lab, crash(lab, attributes=system_unit(IN_USER_SLICE)))) == ["1000"]
    assert messages(run(lab, crash(lab, unit="session-3.scope", attributes={}))) == ["session 1000"]


def test_journal_of_a_unit_within_a_unit_is_the_outer_ones(lab: JournalLab) -> None:
    """The owner of a delegated unit may give any name to units within it; journald goes by the outermost, too."""
    outer = "systemd-nspawn@guest.service"
    lab.write([lab.entry(3, "the system's", **of_unit(UNIT)), lab.entry(2, "its own", **of_unit(outer, PID + 1))])
    marker = crash(lab, lived_s=1, attributes=system_unit(f"0::/machine.slice/{outer}/payload/{UNIT}"))
    assert messages(run(lab, marker)) == ["its own"]


def test_journal_of_what_an_ordinary_user_claims_is_nobodys(lab: JournalLab) -> None:
    """A unit and a number that nobody confirmed must not lead to another one's lines."""
    lab.write([lab.entry(2, "theirs", **of_unit(UNIT, uid=0))])
    got = run(lab, crash(lab, kind=MarkerKind.NOTIFICATION, doubtful=True, attributes={}))
    assert (len(got.artifacts), bool(got.missing)) == (0, True)
    got = run(lab, crash(lab, kind=MarkerKind.NOTIFICATION, process=None, attributes={}))
    assert (len(got.artifacts), bool(got.not_applicable)) == (0, True)


def test_journal_hides_secrets(lab: JournalLab) -> None:
    """In messages, command lines, and fields that a program names itself."""
    secret = "s3cr3tvalue"
    fields = {**of_unit(UNIT), "_CMDLINE": f"engine --password={secret}", "API_TOKEN": secret}
    lab.write([lab.entry(2, f"connecting to https://me:{secret}@host/", **fields)])
    assert secret.encode() not in run(lab, crash(lab)).everything()
    shown = run(lab, crash(lab), Redaction(enabled=False))
    assert shown.everything().count(secret.encode()) == 4


def test_journal_escapes_what_is_binary(lab: JournalLab) -> None:
    """Terminal escapes, NUL and broken UTF-8 are shown as such; a field may be there twice."""
    lab.write([lab.entry(2, b"\x1b[2J\0\xff", TAG=["a", "b"], SYSLOG_IDENTIFIER_="x", **of_unit(UNIT))])
    got = run(lab, crash(lab))
    assert messages(got) == ["\\x1b[2J\\x00\\xff"]
    assert sorted(got.rows("journal.jsonl")[0]["fields"]["TAG"]) == ["a", "b"]
    assert got.text("journal.txt").isprintable() is False  # its line break
    assert got.text("journal.txt").rstrip("\n").isprintable()


DRIVER = {"_TRANSPORT": "driver", "MESSAGE_ID": "a596d6fe7bfa4994828e72309e95d61e", "N_DROPPED": 7}

ESCAPED = r"my\x2dengine.service"


@pytest.mark.parametrize(
    ("unit", "facts"),
    [
        (ESCAPED, {"unit": ESCAPED, "attributes": {SYSTEM_UNIT: ESCAPED}}),
        ("user@1000.service", {"attributes": system_unit(IN_USER_SLICE)}),
    ],
    ids=["a name with a backslash", "a user's own unit"],
)
def test_journal_says_what_journald_suppressed_of_its_unit(lab: JournalLab, unit: str, facts: dict[str, Any]) -> None:
    """journald counts by the unit of the system's manager, and says its name as it is."""
    names = (unit, UNIT, "b.service")
    lab.write(lab.entry(9 - n, f"Suppressed {n} messages from {name}", **DRIVER) for n, name in enumerate(names))
    got = run(lab, crash(lab, **facts))
    assert len(got.rows("journal.jsonl")) == 1
    assert got.missing.startswith("journald: Suppressed 0 messages from ")


def test_journal_says_nothing_of_what_was_suppressed_of_a_unit_that_is_only_claimed(lab: JournalLab) -> None:
    """What journald dropped of somebody else's is not about this crash."""
    messages_of = (
        lab.entry(9 - n, f"Suppressed {n} messages from {name}", **DRIVER) for n, name in enumerate((UNIT, "b"))
    )
    lab.write([*messages_of, lab.entry(2, "mine", **of_unit("b"))])
    marker = crash(lab, kind=MarkerKind.NOTIFICATION, doubtful=True, attributes={SYSTEM_UNIT: "b"})
    assert messages(run(lab, marker)) == ["Suppressed 1 messages from b", "mine"]


def test_journal_says_what_journald_suppressed(lab: JournalLab) -> None:
    """A unit that says too much loses lines before they reach the journal: its last words may be among them."""
    fields = DRIVER
    lines = [lab.entry(9 - n, f"Suppressed {n} messages from {unit}", **fields) for n, unit in enumerate((UNIT, "b"))]
    lab.write([*lines, lab.entry(1, "mine", **of_unit(UNIT), N_DROPPED=3)])
    got = run(lab, crash(lab))
    assert messages(got) == [f"Suppressed 0 messages from {UNIT}", "mine"]
    assert got.missing == f"journald: Suppressed 0 messages from {UNIT}"


def test_journal_is_bounded_and_keeps_what_is_nearest(lab: JournalLab) -> None:
    """The limits are what the operator set; which one cut is said."""
    lab.write(lab.entry(60 - n * 0.1, f"line {n} {'x' * 900}", **of_unit(UNIT)) for n in range(100))
    got = run(lab, crash(lab), max_bytes=20_000)
    assert 0 < len(got["journal.jsonl"]) <= 20_000 + len(got.rows("journal.jsonl"))
    assert messages(got)[-1].startswith("line 99 ")
    assert got.missing.startswith("max_bytes: ")
    assert len(messages(run(lab, crash(lab), lines=7))) == 7


def test_journal_entry_alone_does_not_use_up_the_limit(lab: JournalLab) -> None:
    """One entry may have many long fields; the lines before it are kept all the same."""
    huge = {f"FIELD{n}": f"{n}" * 16_000 for n in range(10, 60)}
    lab.write([lab.entry(9, "before", **of_unit(UNIT)), lab.entry(2, "huge", **huge, **of_unit(UNIT))])
    got = run(lab, crash(lab), max_bytes=200_000)
    assert messages(got)[0] == "before"
    assert any(said.endswith(" is left out") for said in got.rows("journal.jsonl")[1]["cut"])


def test_journal_looks_at_no_more_than_it_may(lab: JournalLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody may fill the journal with claims about another one's unit."""
    monkeypatch.setattr(journal_search, "MAX_SCANNED", 500)
    forged = {**of_unit("evil.service", 4000078), "UNIT": UNIT}
    lab.write(
        [
            lab.entry(91, "started", _PID=1, UNIT="b.service"),
            lab.entry(90, "mine", **of_unit(UNIT)),
            *(lab.entry(50 - n * 0.01, f"{n}", **forged) for n in range(1000)),
        ]
    )
    got = run(lab, crash(lab))
    assert got.missing == "more than 500 entries would have to be looked at"


def test_journal_of_nobody_does_not_apply(lab: JournalLab) -> None:
    """A run by hand without a PID."""
    lab.write([lab.entry(3, "mine", **of_unit(UNIT))])
    marker = Marker(kind=MarkerKind.MANUAL, trigger="test", at_s=time.time())
    assert run(lab, marker).not_applicable == "nobody was named: --pid PID names a process"


def test_journal_of_a_process_that_was_not_seen_says_so(lab: JournalLab) -> None:
    """It is named: an exit file has its number, which may be another's by now."""
    lab.write([lab.entry(2, "hello", **of_unit(UNIT))])
    marker = Marker(kind=MarkerKind.EXIT, trigger="t", at_s=1.0, process=ProcessRef(pid=PID), exit_status=3)
    sentence = f"process {PID} was not seen alive, and its unit is not known: no lines are known to be its own"
    assert run(lab, marker).missing == sentence


def test_journal_marker_of_a_notification_names_the_unit_only(lab: JournalLab) -> None:
    """systemd reports a failed unit without a process."""
    lab.write([lab.entry(2, "mine", **of_unit(UNIT))])
    marker = msgspec.structs.replace(crash(lab), process=None, uid=None)
    assert messages(run(lab, marker)) == ["mine"]


def test_journal_stops_in_time(lab: JournalLab) -> None:
    """What was found before the deadline is kept."""
    lab.write([lab.entry(2, "mine", **of_unit(UNIT))])
    ctx = replace(context(crash(lab), root=str(lab.root)), deadline_s=time.monotonic())
    assert collect(Journal(), ctx).missing == "the step's time was used up"


def test_journal_takes_what_journald_received_late(lab: JournalLab) -> None:
    """The last words may be received after the crash was noticed: of that number and that user, for 2 s."""
    lines = [(9, PID, 1000), (4.9, PID, 1000), (4.8, PID, 1001), (2, PID, 1000)]
    lab.write(lab.entry(age, f"{age}", _PID=pid, _UID=uid) for age, pid, uid in lines)
    assert messages(run(lab, crash(lab, age_s=5, unit=None, attributes={}))) == ["9", "4.9"]
    assert messages(run(lab, crash(lab, age_s=5, uid=None, unit=None, attributes={}))) == ["9"]


class GrowingSearch:
    """Finds one entry more each time, until there are *most*."""

    def __init__(self, most: int) -> None:
        self.found, self.most = 0, most

    def total(self, _: JournalQuery) -> int:
        self.found = min(self.found + 1, self.most)
        return self.found


def test_journal_waits_until_journald_has_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as entries come; journald, which may hang, is not asked."""
    monkeypatch.setattr(journal_search, "QUIET_S", 0.5)
    monkeypatch.setattr(journal_search, "LONGEST_WAIT_S", 30.0)
    monkeypatch.setattr(journal_search, "POLL_S", 0.02)
    search: Any = GrowingSearch(40)
    journal_search.wait_for_journald(search, [JournalQuery("", (), (), 0)])
    assert search.found == 40
    monkeypatch.setattr(journal_search, "LONGEST_WAIT_S", 0.01)
    search = GrowingSearch(1 << 60)
    journal_search.wait_for_journald(search, [JournalQuery("", (), (), 0)])
    assert 0 < search.found < 1 << 60


def test_journal_waits_on_a_machine_that_said_nothing_for_long(
    lab: JournalLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last words may be the first line since the beginning of `since`."""
    monkeypatch.setattr(
        "collector.collectors.journal.journal.wait_for_journald",
        lambda *_: lab.write([lab.entry(0, "late", **of_unit(UNIT))]),
    )
    lab.write([lab.entry(900, "long ago", **of_unit(UNIT))])
    just_now = int(time.clock_gettime(time.CLOCK_BOOTTIME) * CLOCK_TICKS_PER_S)
    assert messages(run(lab, crash(lab, noticed_ticks=just_now))) == ["late"]


def test_journal_has_what_came_while_it_waited(lab: JournalLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """journald may begin a new file meanwhile. Of a crash that is not fresh, everything has been written."""

    def wait(_: JournalSearch, wanted: list[JournalQuery]) -> None:
        assert wanted
        lab.write([lab.entry(0, "late", **of_unit(UNIT))], "user-1000.journal")

    monkeypatch.setattr("collector.collectors.journal.journal.wait_for_journald", wait)
    lab.write([lab.entry(9, "early", **of_unit(UNIT))])
    assert messages(run(lab, crash(lab, age_s=5))) == ["early"]
    just_now = int(time.clock_gettime(time.CLOCK_BOOTTIME) * CLOCK_TICKS_PER_S)
    assert messages(run(lab, crash(lab, noticed_ticks=just_now))) == ["early", "late"]
