"""The ledger: what survives the daemon, and what happens if the file is missing, damaged or on a full disk."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from collector.archive import ledger as ledger_module
from collector.archive import ledger_bounds, ledger_clock, ledgerfile
from collector.archive.ledger import Ledger
from collector.archive.ledger_entry import identity
from collector.host.clock import Moment
from collector.model.case import Fate
from collector.model.marker import CoreRef, Marker, MarkerKind, ProcessRef


def core(inode: int = 1, mtime_ns: int = 1, **fields: object) -> Marker:
    reference = CoreRef(path="/crash/core", device=1, inode=inode, size_bytes=5, mtime_ns=mtime_ns, uid=0)
    given = {"comm": "engine", "uid": 0, **fields}
    return Marker(kind=MarkerKind.CORE_FILE, trigger="cores", at_s=0.0, core=reference, **given)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "ledger.sqlite")


def test_ledger_recognizes_a_core_after_a_restart(path: str) -> None:
    """The same file is not collected twice; a new core at the same path is a different one."""
    ledger = Ledger(path)
    assert ledger.seen(core()) is None
    number = ledger.record(core(), pipeline="crash")
    ledger.decide(number, Fate.QUEUED)
    ledger.begin(number, "i1")
    ledger.finish(number, Fate.COLLECTED, incident="i1")
    ledger.close()
    again = Ledger(path)
    assert again.seen(core(uid=7, comm="renamed")) is Fate.COLLECTED
    assert again.seen(core(mtime_ns=2)) is None
    assert again.seen(core(inode=2)) is None
    assert again.pending() == []
    again.close()


@pytest.mark.parametrize("stage", ["recorded", "queued", "held", "begun"])
def test_ledger_lists_what_was_not_finished(path: str, stage: str) -> None:
    """An unfinished marker is never forgotten, and the number of attempts is known."""
    ledger = Ledger(path)
    number = ledger.record(core(process=ProcessRef(pid=7, start_time_ticks=9)), pipeline="crash")
    if stage != "recorded":
        ledger.decide(number, Fate.HELD if stage == "held" else Fate.QUEUED)
    if stage == "begun":
        ledger.begin(number, "i1")
    ledger.close()
    (entry,) = Ledger(path).pending()
    assert (entry.id, entry.pipeline, entry.marker.process) == (number, "crash", ProcessRef(pid=7, start_time_ticks=9))
    assert (entry.tries, entry.incident) == ((1, "i1") if stage == "begun" else (0, None))


def test_ledger_gives_joined_markers_their_incident(path: str) -> None:
    """All markers of a case get its incident; those that joined keep their fate."""
    ledger = Ledger(path)
    first, second, late = (ledger.record(core(inode=n), pipeline="crash") for n in (1, 2, 3))
    ledger.decide(first, Fate.QUEUED)
    ledger.decide(second, Fate.JOINED, case=first)
    ledger.begin(first, "i1")
    ledger.finish(first, Fate.COLLECTED, incident="i1")
    ledger.decide(late, Fate.JOINED, case=first)
    ledger.close()
    rows = sqlite3.connect(path).execute("SELECT fate, incident FROM markers ORDER BY id").fetchall()
    assert rows == [("collected", "i1"), ("joined", "i1"), ("joined", "i1")]


def test_ledger_counts_fates_and_losses(path: str) -> None:
    """For `status`: markers by fate, and losses reported by the kernel."""
    ledger = Ledger(path)
    for inode in range(4):
        number = ledger.record(core(inode=inode), pipeline="crash")
        ledger.decide(number, Fate.SUPPRESSED if inode else Fate.QUEUED)
    ledger.add_lost("exits", 2)
    ledger.add_lost("exits", 3)
    ledger.close()
    again = Ledger(path)
    assert again.counts() == {"suppressed": 3, "queued": 1}
    assert again.lost() == {"exits": 5}


def test_ledger_remembers_small_texts(path: str) -> None:
    """Such as a position in the kernel log."""
    ledger = Ledger(path)
    ledger.remember("kernel.kmsg", "boot 1")
    ledger.remember("kernel.kmsg", "boot 2")
    ledger.close()
    again = Ledger(path)
    assert (again.recall("kernel.kmsg"), again.recall("other")) == ("boot 2", None)


class RunningTime:
    """The clock that runs, as a test lets it run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = Moment("first", 1000.0)
        monkeypatch.setattr(ledger_clock, "moment", lambda: self.now)

    def run(self, seconds: float) -> None:
        self.now = Moment(self.now.boot_id, self.now.boot_s + seconds)

    def reboot(self) -> None:
        self.now = Moment(f"after {self.now.boot_id}", 30.0)


def spend(ledger: Ledger, inode: int) -> None:
    number = ledger.record(core(inode), pipeline="crash", owner="unit engine.service")
    ledger.begin(number, f"i{inode}")
    ledger.finish(number, Fate.COLLECTED, incident=f"i{inode}", size_bytes=42)


def ages(ledger: Ledger, window_s: float) -> list[float]:
    return [round(100.0 - spent.at_s, 3) for spent in ledger.spent(window_s=window_s, now_s=100.0)]


def test_ledger_keeps_what_was_spent_over_restarts_and_boots(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window is running time: a restart counts, the time between two boots does not, and no window is endless."""
    time = RunningTime(monkeypatch)
    ledger = Ledger(path)
    spend(ledger, 1)
    time.run(20.0)
    spend(ledger, 2)
    (spent, _) = ledger.spent(window_s=60.0, now_s=100.0)
    assert (spent.executable, spent.uid, spent.size_bytes, spent.at_s) == ("engine (uid 0)", 0, 42, 80.0)
    assert spent.owner == "unit engine.service", "that of the case, which the uid does not tell"
    del ledger  # killed
    time.run(30.0)
    ledger = Ledger(path)
    assert ages(ledger, 60.0) == [50.0, 30.0]
    assert ages(ledger, 40.0) == [30.0]
    ledger.close()
    time.reboot()
    ledger = Ledger(path)
    assert ages(ledger, 60.0) == [50.0, 30.0]
    time.run(10.5)
    assert ages(ledger, 60.0) == [40.5]
    time.reboot()  # the machine crashed: at most what `tidy` stores every minute is lost
    assert ages(Ledger(path), 60.0) == [50.0, 30.0]


def test_ledger_keeps_what_was_spent_beyond_a_budget_apart(path: str) -> None:
    """Over a restart, and in a ledger of the release before, whose file lacks that table."""
    ledger = Ledger(path)
    first = ledger.record(core(1), pipeline="crash")
    ledger.close()
    with sqlite3.connect(path) as db:
        db.executescript("DROP TABLE over_budget; PRAGMA user_version = 1;")
    ledger = Ledger(path)
    second = ledger.record(core(2), pipeline="crash")
    ledger.begin(first, "a", over_budget=True)
    ledger.begin(second, "b")
    ledger.close()
    ledger = Ledger(path)
    assert ledger.problem is None
    assert [(one.case, one.over_budget) for one in ledger.spent(window_s=60.0, now_s=0.0)] == [
        (first, True),
        (second, False),
    ]
    ledger.begin(first, "c")
    assert not any(one.over_budget for one in ledger.spent(window_s=60.0, now_s=0.0)), "retried in full"


def test_ledger_takes_what_an_earlier_release_spent_by_its_date(path: str) -> None:
    """Also a date that lay ahead: such a budget is not exhausted forever, nor are others refunded by it."""
    ledger = Ledger(path)
    for inode in (1, 2):
        spend(ledger, inode)
    ledger.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE spent SET at_s = at_s + 1e6 WHERE case_id = 2")
        db.execute("DELETE FROM notes")
    ledger = Ledger(path)
    (age_s,) = ages(ledger, 60.0)
    assert 0.0 <= age_s < 60.0


def test_ledger_deletes_the_notes_written_first_and_not_those_of_an_old_date(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a set-back of the clock, the newest notes have the oldest date."""
    monkeypatch.setattr(ledger_module, "MAX_NOTES", 3)
    ledger = Ledger(path)
    for key in ("a", "b", "c", "a"):
        ledger.remember(key, key)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE notes SET at_s = -rowid")
    ledger.tidy(idle=True)
    assert [ledger.recall(key) for key in ("a", "b", "c")] == ["a", None, "c"]


def test_ledger_is_bounded(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old rows are deleted but still counted, and recognized; pending ones are never deleted."""
    monkeypatch.setattr(ledger_bounds, "MAX_ROWS", 10)
    monkeypatch.setattr(ledger_module, "MAX_NOTES", 3)
    ledger = Ledger(path)
    for inode in range(50):
        number = ledger.record(core(inode=inode), pipeline="crash", owner="root")
        ledger.decide(number, Fate.QUEUED if inode == 0 else Fate.SUPPRESSED)
        ledger.remember(f"key{inode}", "")
    ledger.tidy(idle=True)
    ledger.tidy(idle=True)
    assert ledger.counts() == {"queued": 1, "suppressed": 49}
    assert all(ledger.seen(core(inode=inode)) for inode in range(50))
    ledger.close()
    db = sqlite3.connect(path)
    assert db.execute("SELECT count(*) FROM markers").fetchone() == (10,)
    assert db.execute("SELECT owner, fate, sum(count) FROM counted").fetchall() == [("root", "suppressed", 40)]
    assert db.execute("SELECT count(*) FROM notes").fetchone() == (3,)


def test_ledger_is_private_and_follows_no_symlink(path: str, tmp_path: Path) -> None:
    """It contains names and paths of other users' processes."""
    Ledger(path).close()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "target")
    ledger = Ledger(str(tmp_path / "link"))
    assert ledger.problem is not None
    assert not (tmp_path / "target").exists()


def test_ledger_sets_a_damaged_file_aside(path: str) -> None:
    """A power cut must not stop the collection of evidence forever."""
    Path(path).write_bytes(b"no database" * 1000)
    ledger = Ledger(path)
    assert ledger.problem is None
    assert ledger.record(core(), pipeline="crash") == 1
    assert Path(f"{path}.damaged").exists()


def test_ledger_goes_on_in_memory_without_its_directory(tmp_path: Path) -> None:
    """The daemon does not depend on the file, and reports the problem."""
    ledger = Ledger(str(tmp_path / "missing" / "ledger.sqlite"))
    assert ledger.problem is not None
    number = ledger.record(core(), pipeline="crash")
    assert ledger.seen(core()) is Fate.RECORDED
    ledger.finish(number, Fate.COLLECTED, incident="i1")
    assert ledger.counts() == {"collected": 1}
    (tmp_path / "missing").mkdir()
    ledger.tidy(idle=True)
    assert ledger.problem is None
    ledger.close()
    assert Ledger(str(tmp_path / "missing" / "ledger.sqlite")).seen(core()) is Fate.COLLECTED


@pytest.fixture
def unreadable(path: str) -> str:
    """A ledger that cannot be opened, with a queued case of two markers, a collected core and a loss."""
    before = Ledger(path)
    for number, fate, case in ((1, Fate.QUEUED, 1), (2, Fate.JOINED, 1), (3, Fate.COLLECTED, 3)):
        assert before.record(core(number), pipeline="crash") == number
        before.decide(number, fate, case=case)
    before.begin(3, "i3")
    before.add_lost("exits", 5)
    before.close()
    os.rename(path, f"{path}.aside")
    os.mkdir(path)
    return path


def repair(path: str) -> None:
    os.rmdir(path)
    os.rename(f"{path}.aside", path)


def test_ledger_overwrites_nothing_in_a_file_that_could_not_be_opened(unreadable: str) -> None:
    """What was recorded in memory is appended to the file, and what was pending in the file is returned once."""
    ledger = Ledger(unreadable)
    assert ledger.problem is not None
    meanwhile = ledger.record(core(4), pipeline="crash")
    ledger.decide(meanwhile, Fate.QUEUED)
    ledger.add_lost("exits", 2)
    assert ledger.regained() == []
    repair(unreadable)
    ledger.tidy(idle=True)
    assert ledger.problem is None
    later = ledger.record(core(5), pipeline="crash")
    ledger.decide(later, Fate.JOINED, case=meanwhile)
    ledger.begin(meanwhile, "i4")
    ledger.finish(meanwhile, Fate.COLLECTED, incident="i4", size_bytes=9)
    (entry,) = ledger.regained()
    assert (entry.marker, ledger.joined(entry.id)) == (core(1), [core(2)])
    assert ledger.regained() == []
    ledger.begin(entry.id, "i1")
    ledger.finish(entry.id, Fate.FAILED, incident="i1")
    assert ledger.lost() == {"exits": 7}
    ledger.close()
    db = sqlite3.connect(unreadable)
    assert db.execute("SELECT id, fate, case_id, incident FROM markers ORDER BY id").fetchall() == [
        (1, "failed", 1, "i1"),
        (2, "joined", 1, "i1"),
        (3, "collected", 3, "i3"),
        (4, "collected", 4, "i4"),
        (5, "joined", 4, "i4"),
    ]
    assert db.execute("SELECT case_id, size_bytes FROM spent ORDER BY 1").fetchall() == [(1, 0), (3, 0), (4, 9)]


def test_ledger_leaves_the_locks_of_an_open_file_alone(path: str) -> None:
    """POSIX drops all of a process's locks on a file when it closes any descriptor of it; fcntl(2)."""
    ledger = Ledger(path)
    ledger.record(core(1), pipeline="crash")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ledger.record(core(2), pipeline="crash")
    assert ledger.problem is not None, "the file is locked: it goes on in memory"
    other.close()
    ledger.tidy(idle=True)
    assert ledger.problem is None
    # Another process that closes the file as its last user would delete the journal under the daemon.
    script = (
        "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM markers').fetchone())"
    )
    subprocess.run([sys.executable, "-c", script, path], check=True)
    assert Path(f"{path}-wal").exists()


FULL = """
import resource, signal, sys
from collector.archive.ledger import Ledger
from collector.model.case import Fate
from collector.model.marker import CoreRef, Marker, MarkerKind

def core(inode):
    return Marker(kind=MarkerKind.CORE_FILE, trigger="cores", at_s=0.0, comm="engine", core=CoreRef(
        path="/crash/core", device=1, inode=inode, size_bytes=5, mtime_ns=1, uid=0))

ledger = Ledger(sys.argv[1])
before = ledger.record(core(0), pipeline="crash")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))  # every write beyond fails, as on a full disk
for inode in range(1, 500):
    ledger.record(core(inode), pipeline="crash")
print(ledger.problem is not None, ledger.seen(core(0)), ledger.seen(core(499)), len(ledger.pending()))
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
ledger.finish(before, Fate.COLLECTED, incident="i1")
ledger.tidy(idle=True)
print(ledger.problem)
ledger.close()
"""


def test_ledger_goes_on_in_memory_when_the_disk_is_full_and_returns(path: str) -> None:
    """What was recorded in memory is in the file afterwards."""
    done = subprocess.run([sys.executable, "-c", FULL, path], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True recorded recorded 500", "None"]
    again = Ledger(path)
    assert again.counts() == {"recorded": 499, "collected": 1}


FULL_BATCH = (
    FULL[: FULL.index("for inode")].replace("65536", "200000")  # room for what comes before the batch
    + """
ledger.begin(before, "i1")
with ledger.batch():
    for inode in range(1, 500):
        ledger.record(core(inode), pipeline="crash")
        ledger.decide(inode + 1, Fate.QUEUED)
    ledger.add_lost("exits", 7)
    print(ledger.problem is None)
print(ledger.problem is not None, ledger.seen(core(1)), ledger.counts(), ledger.lost())
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
ledger.tidy(idle=True)
ledger.close()
"""
)


def test_ledger_keeps_a_batch_whose_commit_meets_a_full_disk(path: str) -> None:
    """In a flood on a full disk, the whole transaction moves to memory, once."""
    done = subprocess.run([sys.executable, "-c", FULL_BATCH, path], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True", "True queued {'queued': 499, 'recorded': 1} {'exits': 7}"]
    again = Ledger(path)
    assert again.counts() == {"recorded": 1, "queued": 499}
    assert again.lost() == {"exits": 7}


def test_ledger_writes_its_log_back_only_while_idle(path: str) -> None:
    """A commit never writes the log back, however long it is; `tidy` does, and restarts it."""
    ledger = Ledger(path)
    file, journal = Path(path), Path(f"{path}-wal")
    before = file.stat().st_size
    ledger.record(core(0), pipeline="crash")
    ledger.tidy(idle=True)
    assert file.stat().st_size == before
    for inode in range(1, 400):
        ledger.record(core(inode), pipeline="crash", fate=Fate.SUPPRESSED)
    assert journal.stat().st_size > 2000 * 4096  # far beyond where SQLite itself would write back
    ledger.tidy(idle=False)
    assert file.stat().st_size == before
    ledger.tidy(idle=True)
    assert file.stat().st_size > before
    assert journal.stat().st_size < ledgerfile.WRITE_BACK_BYTES
    assert ledger.problem is None
    ledger.close()
    assert Ledger(path).counts() == {"recorded": 1, "suppressed": 399}


def test_ledger_limits_its_log_during_an_endless_flood(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log must not fill the disk that evidence is written to."""
    monkeypatch.setattr(ledgerfile, "MAX_JOURNAL_BYTES", 1 << 16)
    ledger = Ledger(path)
    for inode in range(100):
        ledger.record(core(inode), pipeline="crash")
    assert Path(f"{path}-wal").stat().st_size > 1 << 16
    ledger.tidy(idle=False)
    assert Path(f"{path}-wal").stat().st_size < 1 << 16


KILLED = """
import os, sys
from collector.archive.ledger import Ledger
from collector.model.marker import CoreRef, Marker, MarkerKind
ledger = Ledger(sys.argv[1])
inode = 0
while True:
    inode += 1
    with ledger.batch():
        ledger.record(Marker(kind=MarkerKind.CORE_FILE, trigger="c", at_s=0.0, core=CoreRef(
            path="/c", device=1, inode=inode, size_bytes=1, mtime_ns=1, uid=0)), pipeline="crash")
    os.write(1, b"%d\\n" % inode)
"""


def test_ledger_keeps_what_was_recorded_when_the_daemon_is_killed(path: str) -> None:
    """SIGKILL at any instant: every acknowledged row is kept."""
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE)
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(50)]
        child.send_signal(signal.SIGKILL)
        acknowledged = (lines + child.communicate()[0].splitlines())[-2]
        ledger = Ledger(path)
        assert ledger.problem is None
        assert len(ledger.pending()) >= min(int(acknowledged), 1000)
        ledger.close()


def test_identity_comes_from_the_trigger_if_there_is_no_core() -> None:
    """A kernel log record is seen again after a restart; a manual request is not."""
    line = Marker(kind=MarkerKind.KERNEL_LOG, trigger="kernel", at_s=0.0, attributes={"identity": "boot:7"})
    assert identity(line) == "kernel:boot:7"
    assert identity(Marker(kind=MarkerKind.MANUAL, trigger="manual", at_s=0.0)) is None


def test_ledger_takes_any_text(path: str) -> None:
    """Names are data: quotes and null characters in them are harmless."""
    ledger = Ledger(path)
    number = ledger.record(core(comm="'); DROP TABLE markers; --\0"), pipeline="crash")
    (entry,) = ledger.pending()
    assert (entry.id, entry.marker.comm) == (number, "'); DROP TABLE markers; --\0")


def test_ledger_is_recreated_when_its_file_was_removed(path: str) -> None:
    """SQLite goes on writing to a deleted file: the next `tidy` notices."""
    ledger = Ledger(path)
    number = ledger.record(Marker(kind=MarkerKind.MANUAL, trigger="test", at_s=0.0), pipeline="crash")
    for file in Path(path).parent.iterdir():
        file.unlink()
    ledger.tidy(idle=True)
    assert ledger.problem is None
    ledger.close()
    assert [entry.id for entry in Ledger(path).pending()] == [number]
