"""The ledger is bounded in rows and bytes, whoever fills it, and every marker is accounted for."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from collector.archive import ledger_bounds, ledgerfile
from collector.archive.ledger import Ledger
from collector.model.case import Fate
from collector.model.marker import CoreRef, Marker, MarkerKind

NOBODY = "uid 65534"


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "ledger.sqlite")


@pytest.fixture
def ledger(path: str) -> Iterator[Ledger]:
    ledger = Ledger(path)
    yield ledger
    ledger.close()


def core(inode: int, *, comm: str = "engine", size: int = 0) -> Marker:
    reference = CoreRef(path="/crash/core", device=1, inode=inode, size_bytes=5, mtime_ns=1, uid=0)
    return Marker(
        kind=MarkerKind.CORE_FILE, trigger="cores", at_s=0.0, comm=comm, uid=0, core=reference, reason="r" * size
    )


def enter(ledger: Ledger, inode: int, owner: str, fate: Fate = Fate.SUPPRESSED, *, size: int = 0) -> int:
    number = ledger.record(core(inode, size=size), pipeline="crash", owner=owner)
    ledger.decide(number, fate)
    return number


def rows(path: str, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def test_ledger_deletes_the_rows_of_whoever_holds_most(
    ledger: Ledger, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flood pushes out its own rows: those of others stay, however old they are."""
    monkeypatch.setattr(ledger_bounds, "MAX_ROWS", 300)
    for inode in range(20):
        enter(ledger, inode, "root" if inode % 2 else "uid 1000", Fate.COLLECTED)
    for first in range(1000, 3000, 50):
        with ledger.batch():
            for inode in range(first, first + 50):
                enter(ledger, inode, NOBODY)
    ledger.tidy(idle=True)
    held = dict(rows(path, "SELECT owner, count(*) FROM markers GROUP BY owner"))  # type: ignore[arg-type]
    assert held == {"root": 10, "uid 1000": 10, NOBODY: 280}
    assert ledger.counts() == {"collected": 20, "suppressed": 2000}


def test_ledger_is_bounded_in_bytes(ledger: Ledger, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fat markers fill neither the file nor its log, and take the place of nobody's small ones."""
    monkeypatch.setattr(ledger_bounds, "MAX_FILE_BYTES", 4 << 20)
    monkeypatch.setattr(ledgerfile, "MAX_JOURNAL_BYTES", 2 << 20)
    for inode in range(50):
        enter(ledger, inode, "root")
    most = 0
    for first in range(1000, 4000, 50):
        with ledger.batch():
            for inode in range(first, first + 50):
                enter(ledger, inode, NOBODY, size=16_000)
        most = max(most, os.stat(path).st_size + os.stat(f"{path}-wal").st_size)
    assert most < 9 << 20  # a batch of 1 MiB, in the log and in the file
    assert rows(path, "SELECT count(*) FROM markers WHERE owner = 'root'") == [(50,)]
    assert ledger.counts() == {"suppressed": 3050}


def test_ledger_does_not_grow_on_a_disk_at_its_reserve(ledger: Ledger, path: str) -> None:
    """Closed markers are counted; one whose case is open still has its row."""
    for inode in range(200):
        enter(ledger, inode, NOBODY, size=4000)
    ledger.tidy(idle=True, may_grow=False)
    assert not ledger.has_share("root")
    before = os.stat(path).st_size
    for first in range(1000, 3000, 50):
        with ledger.batch():
            for inode in range(first, first + 50):
                enter(ledger, inode, NOBODY, Fate.QUEUED if inode == 1000 else Fate.SUPPRESSED, size=4000)
    ledger.tidy(idle=True, may_grow=False)
    assert os.stat(path).st_size + os.stat(f"{path}-wal").st_size < before + (3 << 20)
    assert rows(path, "SELECT fate FROM markers WHERE fate = 'queued'") == [("queued",)]
    ledger.tidy(idle=True, may_grow=True)
    assert ledger.has_share("root")


def test_ledger_counts_what_is_beyond_a_share(ledger: Ledger, path: str) -> None:
    """One row per owner, source, reason and minute, and the identities, also after a restart."""
    for inode in range(500):
        number = ledger.announce(core(inode), pipeline="crash", owner=NOBODY)
        ledger.decide(number, Fate.SUPPRESSED, reason="too many")
    assert rows(path, "SELECT count(*) FROM markers") == [(0,)]
    assert rows(path, "SELECT owner, trigger, fate, reason, sum(count) FROM counted GROUP BY 1, 2, 3, 4") == [
        (NOBODY, "cores", "suppressed", "too many", 500)
    ]
    ledger.close()
    again = Ledger(path)
    assert again.counts() == {"suppressed": 500}
    assert all(again.seen(core(inode)) is not None for inode in range(500))
    assert again.seen(core(501)) is None
    again.close()


@pytest.mark.parametrize("has_rows", [False, True])
def test_ledger_counts_the_witnesses_of_a_storm_in_one_row(
    ledger: Ledger, path: str, monkeypatch: pytest.MonkeyPatch, has_rows: bool
) -> None:
    """Each joins a crash of its own, and its reason says which: that must not make a row of each count."""
    monkeypatch.setattr(ledger_bounds, "MAX_ROWS", 0)
    enters = ledger.record if has_rows else ledger.announce
    for pid in range(70):
        number = enters(core(pid), pipeline="crash", owner=NOBODY)
        ledger.decide(number, Fate.JOINED, reason=f"the crash of process {pid}", case=number)
    ledger.tidy(idle=True)
    found = rows(path, "SELECT reason, count FROM counted")
    assert sum(int(str(count)) for _, count in found) == 70
    assert {reason for reason, _ in found} == {""}
    assert len(found) <= 2, "a minute may have ended meanwhile"


def test_ledger_keeps_a_row_beyond_a_share_while_its_case_is_open(ledger: Ledger, path: str) -> None:
    """It is retried after a restart, and counted once something took its place; one that was begun keeps its row."""
    held = ledger.announce(core(1), pipeline="crash", owner=NOBODY)
    ledger.decide(held, Fate.HELD, reason="budget")
    begun = ledger.announce(core(2), pipeline="crash", owner=NOBODY)
    ledger.decide(begun, Fate.QUEUED)
    assert [entry.fate for entry in ledger.pending()] == [Fate.HELD, Fate.QUEUED]
    ledger.decide(held, Fate.SUPPRESSED, reason="displaced")
    ledger.begin(begun, "i1")
    ledger.finish(begun, Fate.COLLECTED, incident="i1")
    assert rows(path, "SELECT id, fate FROM markers") == [(begun, "collected")]
    assert rows(path, "SELECT fate, reason, count FROM counted") == [("suppressed", "displaced", 1)]
    assert ledger.counts() == {"collected": 1, "suppressed": 1}
    assert ledger.seen(core(1)) is not None


def test_ledger_share_of_rows_is_fair(ledger: Ledger) -> None:
    """Whatever one user takes, others have their share of the minute."""
    taken = dict.fromkeys((NOBODY, "uid 1000", "root"), 0)
    for owner in taken:
        while ledger.has_share(owner):
            taken[owner] += 1
    assert taken == {NOBODY: 300, "uid 1000": 200, "root": 350}


def test_ledger_bounds_its_counts_and_identities(ledger: Ledger, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attacker chooses reasons and identities: his own are dropped."""
    monkeypatch.setattr(ledger_bounds, "MAX_COUNTED", 100)
    monkeypatch.setattr(ledger_bounds, "MAX_PASSED", 100)
    for inode in range(20):
        ledger.decide(ledger.announce(core(inode), pipeline="c", owner="root"), Fate.SUPPRESSED, reason=str(inode))
    for first in range(1000, 2000, 50):
        with ledger.batch():
            for inode in range(first, first + 50):
                number = ledger.announce(core(inode), pipeline="c", owner=NOBODY)
                ledger.decide(number, Fate.SUPPRESSED, reason=str(inode))
    ledger.tidy(idle=True)
    for table in ("counted", "passed"):
        held = dict(rows(path, f"SELECT owner, count(*) FROM {table} GROUP BY owner"))  # type: ignore[arg-type]
        assert held == {"root": 20, NOBODY: 80}
    assert ledger.counts() == {"suppressed": 1020}


EARLIER = """
CREATE TABLE markers (id INTEGER PRIMARY KEY, identity TEXT UNIQUE, at_s REAL NOT NULL, trigger TEXT NOT NULL,
    kind TEXT NOT NULL, uid INTEGER, executable TEXT, fate TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '',
    pipeline TEXT NOT NULL DEFAULT '', case_id INTEGER NOT NULL, incident TEXT, tries INTEGER NOT NULL DEFAULT 0,
    marker BLOB NOT NULL);
CREATE TABLE totals (fate TEXT PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE spent (case_id INTEGER PRIMARY KEY, at_s REAL NOT NULL, executable TEXT NOT NULL, uid INTEGER,
    size_bytes INTEGER NOT NULL);
INSERT INTO totals VALUES ('suppressed', 5);
INSERT INTO markers SELECT value, 'core:1:' || value || ':5:1', 0, 'cores', 'core_file',
    CASE value WHEN 1 THEN 0 WHEN 2 THEN 1000 END, 'engine', 'suppressed', '', 'crash', value, NULL, 0, x'7b7d'
    FROM (SELECT 1 AS value UNION SELECT 2 UNION SELECT 3);
"""


def test_ledger_of_an_earlier_release_gets_owners_once(path: str) -> None:
    """By the uid that its rows have; nothing in it is counted twice or forgotten."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript(EARLIER)
    for _ in range(2):
        ledger = Ledger(path)
        assert ledger.problem is None
        assert ledger.counts() == {"suppressed": 8}
        assert ledger.seen(core(3)) is Fate.SUPPRESSED
        ledger.close()
    assert rows(path, "SELECT owner, bytes FROM markers ORDER BY id") == [
        ("root", 2), ("uid 1000", 2), ("unknown", 2),
    ]  # fmt: skip


FAT = """
CREATE TABLE notes (key TEXT PRIMARY KEY, text TEXT NOT NULL, at_s REAL NOT NULL);
CREATE TABLE lost (trigger TEXT PRIMARY KEY, count INTEGER NOT NULL);
INSERT INTO notes VALUES ('position', 'here', 0);
INSERT INTO lost VALUES ('cores', 7);
INSERT INTO spent VALUES (3, 5.0, 'engine', 1000, 9);
INSERT INTO markers WITH numbers(n) AS (SELECT 10 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1009)
    SELECT n, 'core:1:' || n || ':5:1', 60, 'cores', 'core_file', 1000, 'engine',
    CASE WHEN n IN (20, 21, 1000) THEN 'queued' WHEN n = 22 THEN 'joined' ELSE 'suppressed' END, '', 'crash',
    CASE n WHEN 22 THEN 20 ELSE n END, NULL, 0,
    CAST('{"kind":"core_file","trigger":"cores","at_s":0,"reason":"' ||
        substr(hex(zeroblob(CASE n % 2 WHEN 0 THEN 20000 ELSE 500 END)), 1) ||
        CASE n WHEN 21 THEN '' ELSE '"}' END AS BLOB)
    FROM numbers;
"""


def test_large_ledger_of_an_earlier_release_is_rebuilt(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place, each of its rows would be written again; what is not dealt with yet is kept, and nothing forgotten."""
    monkeypatch.setattr(ledger_bounds, "MAX_FILE_BYTES", 1 << 20)
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode=WAL")
    db.executescript(EARLIER + FAT)
    other = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    other.execute("SELECT fate FROM markers").fetchone()
    db.close()
    before = os.stat(path)
    assert before.st_size > 10 << 20
    assert Ledger(path).problem is not None  # locked: its log cannot be removed yet
    other.close()
    for _ in range(2):
        ledger = Ledger(path)
        assert ledger.problem is None
        assert [(entry.id, entry.marker.uid, len(entry.marker.reason)) for entry in ledger.pending()] == [
            (20, None, 2048), (1000, None, 2048),
        ]  # fmt: skip
        assert [len(marker.reason) for marker in ledger.joined(20)] == [2048]
        assert ledger.counts() == {"failed": 1, "joined": 1, "queued": 2, "suppressed": 5 + 3 + 996}
        assert [ledger.seen(core(inode)) for inode in (1, 10, 1009)] == [Fate.SUPPRESSED] * 3
        assert (ledger.seen(core(5000)), ledger.recall("position"), ledger.lost()) == (None, "here", {"cores": 7})
        ledger.close()
    after = os.stat(path)
    assert (after.st_size < 1 << 20, after.st_mode, after.st_ino == before.st_ino) == (True, 0o100600, False)
    assert sorted(os.listdir(os.path.dirname(path))) == ["ledger.sqlite"]
    ((kept, newest, oldest),) = rows(path, "SELECT count(*), max(id), min(id) FROM markers WHERE fate = 'suppressed'")
    assert (kept, newest, oldest) == (333, 1009, 345)
    ((counted,),) = rows(path, "SELECT sum(count) FROM counted")
    assert counted == 3 + 996 - 333
    assert rows(path, "SELECT owner, count(*) FROM passed GROUP BY owner ORDER BY owner") == [
        ("root", 1), ("uid 1000", 996 - 333 + 1), ("unknown", 1),
    ]  # fmt: skip
    assert rows(path, "SELECT case_id, size_bytes, owner FROM spent") == [(3, 9, "")]
    ledger = Ledger(path)
    enter(ledger, 5000, NOBODY)  # the totals are still kept
    assert ledger.counts()["suppressed"] == 5 + 3 + 997
    ledger.close()


def test_large_ledger_that_is_damaged_is_set_aside(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As any other."""
    monkeypatch.setattr(ledger_bounds, "MAX_FILE_BYTES", 1 << 20)
    with closing(sqlite3.connect(path)) as db:
        db.executescript(EARLIER + FAT)
    with open(path, "r+b") as file:
        file.seek(8192)
        file.write(os.urandom(2 << 20))
    ledger = Ledger(path)
    assert ledger.problem is None
    ledger.close()
    assert sorted(os.listdir(os.path.dirname(path))) == ["ledger.sqlite", "ledger.sqlite.damaged"]


@pytest.mark.parametrize("damage", ["x'ff'", "'{'", "CAST(zeroblob(60000) AS TEXT)", "NULL || '['", "'{}'"])
def test_ledger_loses_no_more_than_a_damaged_row(ledger: Ledger, path: str, damage: str) -> None:
    """The others are resumed, a damaged one is tried once, and a case is resumed without that witness."""
    first = enter(ledger, 1, "root", Fate.QUEUED)
    for inode in (2, 3, 4):
        enter(ledger, inode, "root", Fate.QUEUED)
    ledger.decide(4, Fate.JOINED, case=first)
    ledger.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"UPDATE markers SET marker = coalesce({damage}, ''), fate = fate WHERE id IN (2, 4)")
        db.execute("INSERT INTO notes VALUES ('position', CAST(x'ff41' AS TEXT), 0)")
    again = Ledger(path)
    assert [entry.id for entry in again.pending()] == [1, 3]
    assert again.joined(first) == []
    assert again.recall("position") == "\\xffA"
    assert (again.problem, again.counts()) == (None, {"failed": 1, "joined": 1, "queued": 2})
    again.close()
