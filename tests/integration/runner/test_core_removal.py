"""Removing archived cores from where they were found: only what is archived whole, whatever others do meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from collector.archive.layout import new_id
from collector.archive.read import ArchiveReader
from collector.copying.hashing import digest, digest_again
from collector.model.errors import CopyError
from collector.model.marker import CoreRef
from collector.runner.core_removal import DIFFERS, NOT_ALLOWED, KeptArtifact, KeptCoreFile, remove

CONTENT = b"\x7fELF" + b"core" * 4096
USER, OTHER = 65534, 65533
Attack = Callable[[Path], None]


class Place:
    """A directory with a core, and an archive with its copy."""

    def __init__(self, directory: Path) -> None:
        self.cores = directory / "cores"
        self.core = self.cores / "core.engine"
        self.archive = directory / "archive"
        self.incident = new_id(1.0)
        copy = self.archive / self.incident / "core" / "core"
        copy.parent.mkdir(parents=True)
        self.archive.chmod(0o700)
        self.cores.mkdir()
        for path in (copy, self.core):
            path.write_bytes(CONTENT)
        self.copy = copy

    def kept(self) -> KeptCoreFile:
        info = self.core.stat()
        with self.copy.open("rb") as file:
            known = digest(file.fileno())
        core = CoreRef(
            path=str(self.core),
            device=info.st_dev,
            inode=info.st_ino,
            size_bytes=info.st_size,
            mtime_ns=info.st_mtime_ns,
            uid=info.st_uid,
        )
        return KeptCoreFile(self.incident, KeptArtifact(path="core/core", digest=known), "cores", core)

    def remove(self, kept: KeptCoreFile, attack: Attack = lambda _: None) -> str:
        """Remove it; *attack* happens after the core was read."""

        def digest_of(fd: int, kind: str) -> str:
            found = digest_again(fd, kind)
            attack(self.core)
            return found

        with ArchiveReader(str(self.archive)) as archive:
            return remove(archive, kept, digest_of)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and parent.stat().st_mode & 0o055 != 0o055:
            parent.chmod(0o755)
    tmp_path.chmod(0o755)
    return Place(tmp_path)


def test_core_that_is_archived_whole_is_removed(place: Place) -> None:
    """The archive keeps its copy."""
    assert place.remove(place.kept()) == ""
    assert not place.core.exists()
    assert place.copy.read_bytes() == CONTENT


def test_core_that_the_archive_holds_by_its_other_name_is_removed(place: Place) -> None:
    """Then there is nothing to compare."""
    place.copy.unlink()
    os.link(place.core, place.copy)
    assert place.remove(place.kept()) == ""
    assert (place.core.exists(), place.copy.read_bytes()) == (False, CONTENT)


def test_core_stays_that_differs_from_its_copy(place: Place) -> None:
    """One bit on the archive's disk: the original is the only whole one."""
    place.copy.write_bytes(b"\x7eELF" + CONTENT[4:])
    assert place.remove(place.kept()) == DIFFERS
    assert place.core.exists()


def swap_for_another(core: Path) -> None:
    (core.parent / "new").write_bytes(b"another crash")
    (core.parent / "new").rename(core)


def swap_for_a_symlink(core: Path) -> None:
    (core.parent / "owned").write_bytes(CONTENT)
    core.unlink()
    core.symlink_to(core.parent / "owned")


def swap_the_directory(core: Path) -> None:
    core.parent.rename(core.parent.parent / "before")
    core.parent.mkdir()
    core.write_bytes(CONTENT)


def write_again(core: Path) -> None:
    with core.open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize("attack", [swap_for_another, swap_for_a_symlink, swap_the_directory, write_again])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_nothing_else_is_removed_in_the_place_of_a_core(place: Place, attack: Attack, when: str) -> None:
    """Before it is looked at, or while it is read: what has its name by then stays."""
    kept = place.kept()
    if when == "before":
        attack(place.core)
        place.remove(kept)
    else:
        place.remove(kept, attack)
    if attack is swap_the_directory and when == "meanwhile":
        assert place.core.exists(), "what was archived may go, wherever its directory is by now"
    else:
        assert place.core.exists()
        assert attack is not swap_for_a_symlink or (place.cores / "owned").read_bytes() == CONTENT


def test_core_with_another_name_stays(place: Place) -> None:
    """Removing one of two names frees nothing, and the other may be anybody's."""
    os.link(place.core, place.cores / "other")
    assert "other names" in place.remove(place.kept())
    assert place.core.exists()


def test_core_stays_while_somebody_writes_to_it(place: Place) -> None:
    """What comes next is another crash."""
    with place.core.open("ab"):
        assert "written again" in place.remove(place.kept())
    assert place.core.exists()


def test_reading_that_is_stopped_removes_nothing(place: Place) -> None:
    """An incident goes first: the whole job ends, and is done again later."""

    def stopped(fd: int, kind: str) -> str:
        raise CopyError("an incident goes first")

    with ArchiveReader(str(place.archive)) as archive, pytest.raises(CopyError):
        remove(archive, place.kept(), stopped)
    assert place.core.exists()


@pytest.mark.root
@pytest.mark.parametrize(
    ("directory", "mode", "file", "goes"),
    [
        (0, 0o755, USER, True),  # only root may write there: the configuration's word is enough
        (0, 0o1777, USER, True),
        (USER, 0o755, USER, True),
        (USER, 0o700, OTHER, False),
        (OTHER, 0o777, USER, True),
        (OTHER, 0o755, 0, True),
    ],
)
def test_core_is_removed_for_whom_might_do_it(place: Place, directory: int, mode: int, file: int, goes: bool) -> None:
    """Root must not empty a user's directory for somebody else."""
    os.chown(place.core, file, file)
    os.chown(place.cores, directory, directory)
    place.cores.chmod(mode)
    assert place.remove(place.kept()) == ("" if goes else NOT_ALLOWED)
    assert place.core.exists() is not goes


def test_symlink_of_a_user_does_not_lead_to_what_is_removed(place: Place) -> None:
    """The directory's parent is a user's, who swaps it for a symlink: the path leads nowhere any more."""
    kept = place.kept()
    place.cores.rename(place.cores.parent / "moved")
    place.cores.symlink_to(place.cores.parent / "moved")
    os.chown(place.cores, USER if os.geteuid() == 0 else -1, -1, follow_symlinks=False)
    if os.geteuid() == 0:
        assert "symlink" in place.remove(kept)
        assert place.core.exists()
