"""The ledger is read beside its writer, without one, and as far as it can be read; nothing of it is changed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from collector.archive.ledger import Ledger
from collector.archive.ledger_reader import LedgerReader, LedgerRow
from collector.archive.read import ArchiveReader
from collector.model.case import Fate
from collector.model.errors import ArchiveError
from collector.model.marker import Marker, MarkerKind, ProcessRef

ALWAYS = {"since_s": float("-inf"), "until_s": float("inf")}
PID = 4_000_077
WRITER = """
import sys
from collector.archive.ledger import Ledger
from collector.model.case import Fate
from collector.model.marker import Marker, MarkerKind
ledger = Ledger(sys.argv[1])
marker = Marker(kind=MarkerKind.EXIT, trigger="exits", at_s=1.0, comm="engine", signal=11)
for line in sys.stdin:
    ledger.decide(ledger.record(marker, pipeline="crash"), Fate.SUPPRESSED, reason="over a budget")
    print(ledger.problem, flush=True)
    if line == "end\\n":
        ledger.close()
        break
"""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


@contextmanager
def writer(archive: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a process that has the ledger open, and writes a marker for each line."""
    command = [sys.executable, "-c", WRITER, str(archive / "ledger.sqlite")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def write(process: subprocess.Popen[str], word: str = "one") -> str:
    """Have the writer record a marker; return its problem."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{word}\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def filled(archive: Path, count: int = 3) -> Path:
    ledger = Ledger(str(archive / "ledger.sqlite"))
    with ledger.batch():
        for number in range(count):
            marker = Marker(
                kind=MarkerKind.EXIT, trigger="exits", at_s=1.0, comm="engine", uid=7, signal=11, unit="engine.service",
                process=ProcessRef(pid=PID, start_time_ticks=number), attributes={"event": "x", "parent": "1"},
            )  # fmt: skip
            ledger.decide(ledger.record(marker, pipeline="crash", owner="uid 7"), Fate.SUPPRESSED, reason="over")
    ledger.close()
    return archive / "ledger.sqlite"


def read(archive: Path) -> tuple[list[LedgerRow], list[str]]:
    with ArchiveReader(str(archive)) as opened, LedgerReader(opened) as ledger:
        return list(ledger.markers(**ALWAYS)), ledger.problems


def everything(archive: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return inode, time of the last change and contents of every file."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(archive.iterdir())
    }


def test_ledger_is_read_while_its_writer_writes(archive: Path) -> None:
    """What is only in the log, too; no byte and no file changes, and the writer is never refused."""
    with writer(archive) as process:
        assert write(process) == "None"
        before = everything(archive)
        assert {"ledger.sqlite", "ledger.sqlite-shm", "ledger.sqlite-wal"} == set(before)
        rows, problems = read(archive)
        assert (len(rows), problems) == (1, [])
        assert everything(archive) == before
        with ArchiveReader(str(archive)) as opened, LedgerReader(opened) as ledger:
            assert list(ledger.counted(**ALWAYS)) == []
            assert [write(process) for _ in range(50)] == ["None"] * 50
            assert len(list(ledger.markers(**ALWAYS))) == 1, (
                "one state: a row that becomes a count is neither twice there nor never"
            )
        assert len(read(archive)[0]) == 51
        assert write(process, "end") == "None"
    assert len(read(archive)[0]) == 52


def test_ledger_of_a_killed_writer_is_read_as_it_is(archive: Path) -> None:
    """Its log is for the next start to write back."""
    with writer(archive) as process:
        assert [write(process) for _ in range(3)] == ["None"] * 3
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = everything(archive)
    assert len(read(archive)[0]) == 3
    assert everything(archive) == before


def test_ledger_without_a_writer_stays_one_file(archive: Path) -> None:
    """SQLite would make a log, and leave it."""
    filled(archive)
    before = everything(archive)
    rows, problems = read(archive)
    assert [(row.said.comm, row.said.attributes.event, row.owner) for row in rows] == [("engine", "x", "uid 7")] * 3
    assert problems == []
    assert everything(archive) == before
    assert set(before) == {"ledger.sqlite"}


def test_log_without_its_index_is_said(archive: Path) -> None:
    """What a copy of the archive may lack."""
    with writer(archive) as process:
        write(process)
    (archive / "ledger.sqlite-shm").unlink()
    before = everything(archive)
    assert any("-wal cannot be read" in problem for problem in read(archive)[1])
    assert everything(archive) == before


def test_ledger_that_is_not_there_is_empty(archive: Path) -> None:
    """And is not made."""
    with ArchiveReader(str(archive)) as opened, LedgerReader(opened) as ledger:
        assert not ledger.exists
        assert list(ledger.markers(**ALWAYS)) == list(ledger.counted(**ALWAYS)) == []
        assert ledger.problems == []
    assert list(archive.iterdir()) == []


@pytest.mark.parametrize("kind", ["symlink", "FIFO", "directory"])
def test_ledger_that_is_no_file_is_an_error(archive: Path, kind: str) -> None:
    """Nothing waits for a FIFO, and no link leads elsewhere."""
    path = archive / "ledger.sqlite"
    if kind == "symlink":
        path.symlink_to("/etc/passwd")
    elif kind == "FIFO":
        os.mkfifo(path)
    else:
        path.mkdir()
    with ArchiveReader(str(archive)) as opened, pytest.raises(ArchiveError, match="not a regular file"):
        LedgerReader(opened)


def test_damaged_page_costs_only_its_rows(archive: Path) -> None:
    """Those before and behind it are read, in their order, and it is said."""
    path = filled(archive, 200)
    with closing(sqlite3.connect(path)) as db:
        (page,) = db.execute("PRAGMA page_size").fetchone()
    data = bytearray(path.read_bytes())
    leaf = 13  # of a table's b-tree; https://www.sqlite.org/fileformat.html
    leaves = [at for at in range(page, len(data), page) if data[at] == leaf and b"engine" in data[at : at + page]]
    middle = leaves[len(leaves) // 2]
    data[middle : middle + page] = b"\xff" * page
    path.write_bytes(data)
    rows, problems = read(archive)
    ids = [row.id for row in rows]
    assert ids == sorted(set(ids))
    assert (ids[0], ids[-1]) == (1, 200)
    assert 100 < len(ids) < 200
    assert any("not everything can be read of its table markers" in problem for problem in problems)


@pytest.mark.parametrize("data", [b"", b"SQLite format 3\0", b"\xff" * 8192, bytes(8192)], ids=repr)
def test_file_that_is_no_ledger_is_said_or_empty(archive: Path, data: bytes) -> None:
    """Whatever somebody has put there."""
    (archive / "ledger.sqlite").write_bytes(data)
    rows, problems = read(archive)
    assert rows == []
    assert problems or data in (b"", bytes(8192))
    assert set(everything(archive)) == {"ledger.sqlite"}


def test_ledger_of_an_earlier_release_is_read(archive: Path) -> None:
    """Its rows name no owner, and nothing is counted in it."""
    filled(archive)
    with closing(sqlite3.connect(archive / "ledger.sqlite")) as db:
        db.executescript(
            "PRAGMA journal_mode=DELETE; DROP INDEX markers_by_owner; DROP TABLE counted;"
            "ALTER TABLE markers DROP COLUMN owner; ALTER TABLE markers DROP COLUMN bytes; PRAGMA user_version=0;"
        )
    before = everything(archive)
    with ArchiveReader(str(archive)) as opened, LedgerReader(opened) as ledger:
        assert [row.owner for row in ledger.markers(**ALWAYS)] == [""] * 3
        assert list(ledger.counted(**ALWAYS)) == []
        assert ledger.problems == []
    assert everything(archive) == before


def test_damaged_row_costs_only_itself(archive: Path) -> None:
    """SQLite keeps any type in any column."""
    path = filled(archive, 6)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE markers SET marker = x'7b' WHERE id = 2")
        db.execute("UPDATE markers SET reason = x'ff00' WHERE id = 3")
        db.execute("UPDATE markers SET at_s = 'never' WHERE id = 4")
        db.execute("UPDATE markers SET reason = CAST(x'ff41' AS TEXT) WHERE id = 5")
    rows, problems = read(archive)
    assert [row.id for row in rows] == [1, 5, 6]
    assert rows[1].reason == "\\xffA"
    assert problems == ["the ledger has 3 damaged rows"]


def test_ledger_that_is_none_is_said_once(archive: Path) -> None:
    """Though two of its tables are asked for."""
    (archive / "ledger.sqlite").write_bytes(b"not a database" * 99)
    with ArchiveReader(str(archive)) as opened, LedgerReader(opened) as ledger:
        assert (list(ledger.counted(**ALWAYS)), list(ledger.markers(**ALWAYS))) == ([], [])
        assert ledger.problems == ["the ledger cannot be read: file is not a database"]


def test_ledger_that_was_set_aside_is_said(archive: Path) -> None:
    """What was in it is not in this one."""
    filled(archive)
    (archive / "ledger.sqlite.damaged").write_bytes(b"x")
    rows, problems = read(archive)
    assert (len(rows), len(problems)) == (3, 1)
    assert "ledger.sqlite.damaged" in problems[0]
