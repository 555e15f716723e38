"""Files of the journal that are missing, damaged, of other formats; and what reading them leaves in the page cache."""

from __future__ import annotations

import gc
import os
import random
from pathlib import Path

import pytest
from journal_lab import MACHINE, PID, UNIT, JournalLab, crash, messages, of_unit, run
from machine import need
from memory_group import memory_group

from collector.collectors.journal.journal import Journal
from collector.host import sparing_reader
from collector.host.journal_file import JournalDamagedError, JournalFile
from collector.host.sparing_reader import SparingReader
from collector.host.syscalls import cachestat
from collector.pressure.gate import SPARE_BYTES

OTHER_BOOT = "f" * 32


@pytest.fixture
def lab(tmp_path: Path) -> JournalLab:
    return JournalLab(tmp_path / "root")


FORMATS = {
    "zstd, keyed, 64 bits": {"SYSTEMD_JOURNAL_COMPRESS": "zstd", "SYSTEMD_JOURNAL_COMPACT": "0"},
    "zstd, keyed, compact": {"SYSTEMD_JOURNAL_COMPRESS": "zstd", "SYSTEMD_JOURNAL_COMPACT": "1"},
    "lz4, as before systemd 246": {
        "SYSTEMD_JOURNAL_COMPRESS": "lz4",
        "SYSTEMD_JOURNAL_COMPACT": "0",
        "SYSTEMD_JOURNAL_KEYED_HASH": "0",
    },
    "xz": {"SYSTEMD_JOURNAL_COMPRESS": "xz"},
    "none": {"SYSTEMD_JOURNAL_COMPRESS": "0"},
}


@pytest.mark.parametrize("settings", FORMATS.values(), ids=list(FORMATS))
def test_journal_reads_every_format_that_systemd_writes(tmp_path: Path, settings: dict[str, str]) -> None:
    """Long messages are compressed each by itself; what is too long is cut, and that is said."""
    lab = JournalLab(tmp_path / "root", **settings)
    noise = random.Random(1).randbytes(150_000).hex()
    long = [f"frame {n} of {'x' * 50}" for n in range(100)]
    lab.write([lab.entry(3, "\n".join(long), **of_unit(UNIT)), lab.entry(2, noise, **of_unit(UNIT))])
    got = run(lab, crash(lab))
    assert messages(got)[0].split("\n") == long
    assert (messages(got)[1], noise[:100] in messages(got)[1]) == (noise[: len(messages(got)[1])], True)
    assert [row.get("cut", []) for row in got.rows("journal.jsonl")] == [[], ["MESSAGE"]]


def test_journal_without_files_does_not_apply(lab: JournalLab) -> None:
    """A machine without journald: the incident can still be complete."""
    got = run(lab, crash(lab))
    assert got.not_applicable.startswith("this machine keeps no journal")
    lab.write([lab.entry(3, "old", boot=OTHER_BOOT, **of_unit(UNIT))])
    assert run(lab, crash(lab)).not_applicable.startswith("the journal has nothing of this boot")
    lab.write([lab.entry(3, "another", **of_unit("b.service", 4000078))])
    assert run(lab, crash(lab)).not_applicable == f"the journal has no line of process {PID} or {UNIT} in that time"


def test_journal_that_may_not_be_read_is_an_error(lab: JournalLab) -> None:
    """And says whom to be; of what may be read, lines are kept, and the rest is said to be missing."""
    private = lab.write([lab.entry(3, "private", **of_unit(UNIT))])
    if os.geteuid() == 0:
        need("root")
        private.unlink()
        private.symlink_to("/etc/hostname")  # root may read anything; what is no file of its own is left out, too
        assert run(lab, crash(lab)).not_applicable.startswith("this machine keeps no journal")
        return
    private.chmod(0)
    got = run(lab, crash(lab))
    assert got.error is not None
    assert "systemd-journal" in str(got.error.hint)
    lab.write([lab.entry(2, "mine", **of_unit(UNIT))], "user-1000.journal")
    got = run(lab, crash(lab))
    assert (messages(got), got.missing) == (["mine"], "1 file may not be read")


def test_journal_survives_any_damage(lab: JournalLab) -> None:
    """A file that is cut or scribbled over costs what it held, and that is said; nothing hangs or breaks."""
    path = lab.write(lab.entry(60 - n * 0.1, f"line {n}", **of_unit(UNIT)) for n in range(200))
    whole = path.read_bytes()
    used = len(whole.rstrip(b"\0"))
    chance = random.Random(3)
    for turn in range(60):
        damaged = bytearray(whole)
        for _ in range(1 + turn * 20):
            damaged[chance.randrange(208 if turn % 3 else 0, used)] = chance.randrange(256)
        path.write_bytes(damaged if turn % 4 else damaged[: chance.randrange(used)])
        got = run(lab, crash(lab))
        assert got.artifacts or got.error or got.missing or got.not_applicable
    path.write_bytes(b"x" * 4096)
    assert "does not begin as a journal does" in str(run(lab, crash(lab)).error)
    lab.write([lab.entry(2, "mine", **of_unit(UNIT))], "user-1000.journal")
    got = run(lab, crash(lab))
    assert messages(got) == ["mine"]
    assert "system.journal: it does not begin" in got.missing


@pytest.mark.parametrize("name", [b"ME\0SAGE", b"\0ESSAGE"])
def test_journal_field_whose_name_is_damaged_costs_one_entry(lab: JournalLab, name: bytes) -> None:
    """The environment of a process, by whose rules secrets are found, has a NUL between its variables."""
    path = lab.write([lab.entry(3, "before", **of_unit(UNIT)), lab.entry(2, "mine", **of_unit(UNIT))])
    path.write_bytes(path.read_bytes().replace(b"MESSAGE=mine", name + b"=mine"))
    got = run(lab, crash(lab))
    assert messages(got) == ["before"]
    assert "there is no field at" in got.missing


def test_journal_file_takes_nothing_for_what_it_is_not(lab: JournalLab) -> None:
    """A damaged offset may lead anywhere: each object says its type, and begins at a multiple of eight."""
    path = lab.write([lab.entry(2, "mine", **of_unit(UNIT))])
    with path.open("rb") as opened:
        file = JournalFile(opened.fileno(), "x")
        data = file.find(b"MESSAGE=mine")
        assert data is not None
        offset, entry = file.entries(data).entry(0)
        assert data.offset in entry.items
        for read in (file.entry, file.array):
            with pytest.raises(JournalDamagedError):
                read(data.offset)
        for at in (0, offset, data.offset + 4, 1 << 60, (1 << 63) - 8, 1 << 63, (1 << 64) - 8):
            with pytest.raises(JournalDamagedError):
                file.field(at, 100)
        file.reader.drop()


def test_journal_of_a_later_systemd_is_refused(lab: JournalLab) -> None:
    """With a feature that changes where things are, reading on would be guessing."""
    path = lab.write([lab.entry(2, "mine", **of_unit(UNIT))])
    with path.open("r+b") as file:
        file.seek(12)
        file.write((1 << 9).to_bytes(4, "little"))
    assert "features that this program does not know (flags 0x200)" in str(run(lab, crash(lab)).error)


def test_journal_of_another_machine_is_not_looked_at(lab: JournalLab) -> None:
    """What other machines sent here is not about this crash; a namespace of the journal is."""
    lab.write([lab.entry(2, "mine", **of_unit(UNIT))])
    lab.directory.rename(lab.directory.with_name("remote"))
    assert run(lab, crash(lab)).not_applicable.startswith("this machine keeps no journal")
    lab.directory.with_name("remote").rename(lab.directory.with_name(f"{MACHINE}.engine"))
    assert messages(run(lab, crash(lab))) == ["mine"]


@pytest.mark.parametrize("below", ["", MACHINE], ids=["journal", "machine"])
def test_journal_may_be_elsewhere(lab: JournalLab, below: str) -> None:
    """Operators move it to a larger disk and leave a symbolic link, which journald follows; only root can make one."""
    lab.write([lab.entry(2, "mine", **of_unit(UNIT))])
    directory = lab.directory.parent / below
    directory.rename(lab.root / "elsewhere")
    directory.symlink_to(lab.root / "elsewhere")
    assert messages(run(lab, crash(lab))) == ["mine"]


def cached_pages(path: Path, length: int = 0) -> int:
    with path.open("rb") as file:
        found = cachestat(file.fileno(), length=length)
        if found is None:
            pytest.skip("needs Linux 6.5")
        return found.cached


def test_journal_leaves_the_page_cache_as_it_was(lab: JournalLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It brings 4 KiB pages without readahead and drops them; what others have there stays."""
    brought: list[int] = []
    dropped = SparingReader.drop

    class Counting(SparingReader):
        def drop(self) -> None:
            dropped(self)
            brought.append(self.brought_pages)

    monkeypatch.setattr("collector.host.journal_file.SparingReader", Counting)
    line = "x" * 200
    path = lab.write(lab.entry(500 - n * 0.01, f"{n} {line}", **of_unit(UNIT, PID + n % 5)) for n in range(20_000))
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(file.fileno(), 4096, 0)
    before = cached_pages(path)
    assert before > 0
    assert len(messages(run(lab, crash(lab)))) > 200
    assert cached_pages(path) == cached_pages(path, 4096) == before == 1
    assert 0 < max(brought) < 512, "2 MiB"


def test_journal_drops_what_it_brought_as_it_goes(lab: JournalLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much there is to read, only so much of it is in the page cache at a time."""
    monkeypatch.setattr(sparing_reader, "MAX_SEEN", 8)
    path = lab.write(lab.entry(500 - n * 0.01, f"line {n}", **of_unit(UNIT)) for n in range(5000))
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        reader = SparingReader(file.fileno())
        for page in range(100):
            reader.read(page * sparing_reader.PAGE, 16)
            assert cached_pages(path) <= 8
        reader.drop()
        assert (reader.brought_pages, cached_pages(path)) == (100, 0)


@pytest.mark.root
def test_journal_stays_within_its_footprint(lab: JournalLab) -> None:
    """Page cache and private memory of a process that has everything imported, as a worker has; nothing is forked."""
    line = "frame " * 150  # long enough to be compressed
    for name in ("system@1.journal", "system.journal"):
        lab.write((lab.entry(500 - n * 0.01, f"{n} {line}", **of_unit(UNIT, PID + n % 5)) for n in range(20_000)), name)
    for path in lab.directory.iterdir():
        with path.open("r+b") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    marker = crash(lab)
    run(lab, crash(lab, unit="other.service", process=None))
    with memory_group() as group:
        ready, go = os.pipe()
        if not (child := os.fork()):
            gc.freeze()  # as workers do: else whatever the tests before this one have left is copied when it collects
            os.read(ready, 1)
            try:
                os._exit(0 if len(messages(run(lab, marker))) > 200 else 1)
            finally:
                os._exit(2)
        group.take(child)
        group.limit(Journal.footprint.peak_bytes + SPARE_BYTES)
        os.write(go, b"x")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        print(f"{group.peak_bytes / (1 << 20):.2f} MiB")
        assert group.hits == 0, "nobody in it had to reclaim memory"
        assert group.peak_bytes <= Journal.footprint.peak_bytes
        os.close(ready)
        os.close(go)
