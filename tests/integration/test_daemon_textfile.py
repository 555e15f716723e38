"""The metrics' file, written by a process of its own: whole, harmless, and nobody waits for it."""

from __future__ import annotations

import itertools
import os
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from machine import need, tmpfs

from collector.daemon import textfile as textfile_module
from collector.daemon.loop import Loop
from collector.daemon.textfile import Textfile
from collector.daemon.textfile_writer import replace_file
from collector.model.errors import StepError

NOBODY = 65534


def files(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def test_textfile_is_replaced_whole_and_readable_by_everybody(tmp_path: Path) -> None:
    """Whatever the daemon's umask is; what a writer that was killed has left goes."""
    path = tmp_path / "collector.prom"
    (tmp_path / ".collector.prom.new").write_bytes(b"half")
    before = os.umask(0o077)
    try:
        replace_file(str(path), b"old 1\n")
        with path.open("rb") as reader:
            replace_file(str(path), b"new 2\n")
            assert reader.read() == b"old 1\n"
    finally:
        os.umask(before)
    assert path.read_bytes() == b"new 2\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert files(tmp_path) == ["collector.prom"]


@pytest.mark.parametrize("name", ["collector.prom", ".collector.prom.new"])
def test_textfile_replaces_a_symlink_and_follows_none(tmp_path: Path, name: str) -> None:
    """Whoever owns the directory must not have root write elsewhere."""
    victim, directory = tmp_path / "victim", tmp_path / "prom"
    victim.write_bytes(b"precious")
    directory.mkdir()
    (directory / name).symlink_to(victim)
    replace_file(str(directory / "collector.prom"), b"x 1\n")
    assert victim.read_bytes() == b"precious"
    assert (directory / "collector.prom").read_bytes() == b"x 1\n"
    assert not (directory / "collector.prom").is_symlink()


@pytest.mark.root
def test_textfile_does_not_follow_a_users_symlink_on_the_way(tmp_path: Path) -> None:
    """Nor may he choose the directory."""
    need("root")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "prom").symlink_to(tmp_path / "elsewhere")
    os.lchown(tmp_path / "prom", NOBODY, NOBODY)
    with pytest.raises(StepError, match="symlink"):
        replace_file(str(tmp_path / "prom" / "collector.prom"), b"x 1\n")
    assert files(tmp_path / "elsewhere") == []


@pytest.mark.root
def test_textfile_on_a_full_disk_stays_as_it_was(tmp_path: Path) -> None:
    """An old file tells by its age that it is old; half a file would tell something wrong."""
    with tmpfs(tmp_path / "full", size="64k") as directory:
        path = directory / "collector.prom"
        replace_file(str(path), b"old 1\n")
        with pytest.raises(OSError, match="No space"):
            replace_file(str(path), b"x" * (1 << 20))
        assert path.read_bytes() == b"old 1\n"
        assert files(directory) == ["collector.prom"]


class Lab:
    """A `Textfile` in a loop, and what it says."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = str(path)
        self.texts = 0
        self.told: list[str] = []
        self.loop = Loop()
        self.textfile = Textfile(self.loop, lambda: True)
        monkeypatch.setattr(textfile_module, "log", self)
        monkeypatch.setattr(textfile_module, "PERIOD_S", 0.02)

    def warning(self, event: str, **fields: str) -> None:
        self.told.append(f"{event}: {fields['reason']}")

    def info(self, event: str, **_: str) -> None:
        self.told.append(event)

    def text(self) -> str:
        self.texts += 1
        return f"text {self.texts}\n"

    def run_until(self, condition: Callable[[], object]) -> None:
        end_s, holds = time.monotonic() + 20, False

        def check() -> None:
            nonlocal holds
            holds = bool(condition())
            if holds or time.monotonic() > end_s:
                self.loop.stop()
            else:
                self.loop.call_later(0.01, check)

        self.loop.call_later(0.0, check)
        self.loop.run()
        assert holds


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    made = Lab(tmp_path / "prom" / "collector.prom", monkeypatch)
    made.textfile.start(lambda: made.path, made.text)
    yield made
    pids = made.textfile.pids
    made.textfile.close()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_textfile_says_once_why_it_is_not_written_and_goes_on_by_itself(lab: Lab) -> None:
    """A directory that is missing when the daemon starts may be mounted later."""
    lab.run_until(lambda: lab.texts > 3)
    os.mkdir(os.path.dirname(lab.path))
    lab.run_until(lambda: os.path.exists(lab.path))
    lab.run_until(lambda: len(lab.told) > 1)
    assert lab.told == [
        "metrics.unwritten: there is no such directory; create it, and let root own it",
        "metrics.written",
    ]


def more_turns(count: int) -> Callable[[], bool]:
    turns = itertools.count()
    return lambda: next(turns) > count


def test_textfile_of_a_writer_that_hangs_costs_no_wait_and_one_line(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hangs on its disk: it is given nothing more, and the daemon's loop goes on."""
    os.mkdir(os.path.dirname(lab.path))
    lab.run_until(lambda: os.path.exists(lab.path))
    os.kill(lab.textfile.pids[0], signal.SIGSTOP)
    lab.run_until(more_turns(20))  # what it had written before may be answered only now
    lab.told.clear()  # its directory may have been missing at first
    monkeypatch.setattr(textfile_module, "STALLED_S", 0.05)
    lab.run_until(lambda: lab.told)
    made = lab.texts
    lab.run_until(more_turns(20))
    assert lab.texts == made
    os.kill(lab.textfile.pids[0], signal.SIGCONT)
    lab.run_until(lambda: lab.texts > made + 1)
    assert lab.told == ["metrics.unwritten: its disk does not answer", "metrics.written"]


def test_textfile_writer_is_replaced_when_it_was_killed(lab: Lab) -> None:
    """By the OOM killer, say; its place is taken at the next turn."""
    os.mkdir(os.path.dirname(lab.path))
    lab.run_until(lambda: os.path.exists(lab.path))
    (pid,) = lab.textfile.pids
    os.kill(pid, signal.SIGKILL)
    lab.run_until(lambda: lab.textfile.pids and lab.textfile.pids[0] != pid)
    os.unlink(lab.path)
    lab.run_until(lambda: os.path.exists(lab.path))


def test_textfile_writer_ends_when_no_file_is_wanted_any_more(lab: Lab) -> None:
    """After a reload, say."""
    os.mkdir(os.path.dirname(lab.path))
    lab.run_until(lambda: os.path.exists(lab.path))
    lab.path = ""
    lab.run_until(lambda: not lab.textfile.pids)
