"""Names that stand for something else by the time they are opened: what counts is what was opened."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from collecting import Collected, collect, context
from racer import exchanged

from collector.collectors.base import Collector
from collector.collectors.files.files import Files
from collector.collectors.shm.shm import Shm
from collector.host.files import OpenFd, open_beneath
from collector.model.errors import StepError

pytestmark = [pytest.mark.root, pytest.mark.timeout(60)]
SECRET = b"only root may read this"
EVIDENCE = b"evidence"
KINDS = ("fifo", "symlink", "device", "directory")
# How often each must have been met: the process that exchanges the names is not always running.
OFTEN, TRIES = 10, 200_000


@pytest.fixture(params=KINDS)
def names(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A regular file, and what is to take its name."""
    (tmp_path / "secret").write_bytes(SECRET)
    directory = tmp_path / "dev" / "shm"
    directory.mkdir(parents=True)
    regular, planted = directory / "x", tmp_path / "planted"
    regular.write_bytes(EVIDENCE)
    if request.param == "fifo":
        os.mkfifo(planted)
    elif request.param == "symlink":
        planted.symlink_to(tmp_path / "secret")
    elif request.param == "device":
        os.mknod(planted, 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero, endless
    else:
        planted.mkdir()
    return regular, planted


def test_open_beneath_returns_only_a_regular_file_that_is_no_symlinks_target(names: tuple[Path, Path]) -> None:
    """FIFO, symlink, device and directory take its name while it is opened: they are refused, and nothing hangs."""
    regular, planted = names
    mine = regular.stat().st_ino
    opened = refused = 0
    with exchanged(regular, planted), OpenFd(os.open(regular.parent, os.O_RDONLY)) as directory:
        for _ in range(TRIES):
            if opened >= OFTEN and refused >= OFTEN:
                break
            try:
                with OpenFd(open_beneath(directory, "x")) as fd:
                    status = os.fstat(fd)
            except (OSError, StepError):
                refused += 1
                continue
            opened += 1
            assert stat.S_ISREG(status.st_mode)
            assert status.st_ino == mine
    assert min(opened, refused) >= OFTEN, (opened, refused)


@pytest.mark.parametrize("collector", ["files", "shm"])
def test_nothing_but_regular_files_is_read_though_their_names_are_exchanged(
    names: tuple[Path, Path], collector: str
) -> None:
    """Between the listing and the opening: what was listed is read, or nothing, and then the step says so."""
    regular, planted = names
    root = str(regular.parents[2])
    step: Collector = Shm(segments=("x*",)) if collector == "shm" else Files(paths=("/dev/shm/x*",))
    read = lost = 0
    with exchanged(regular, planted):
        for _ in range(TRIES):
            if read >= OFTEN and lost >= OFTEN:
                break
            collected = collect(step, context(root=root))
            read += EVIDENCE in bodies(collected)
            lost += "no longer there: x" in collected.missing or "not read: /dev/shm/x" in collected.missing
            assert set(bodies(collected)) <= {EVIDENCE}
    assert min(read, lost) >= OFTEN, (read, lost)


def bodies(collected: Collected) -> list[bytes]:
    """Return what was copied."""
    return [taken.data for path, taken in collected.artifacts.items() if path[-4:].isdigit()]
