"""Who may remove a file, as the kernel has it: each answer is compared with what an unlink by that user does."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest

from collector.host.files import Host, OpenFd
from collector.host.removal import may_remove
from collector.host.trusted_path import find_directory

pytestmark = pytest.mark.root
USER, OTHER = 65534, 65533
MODES = (0o000, 0o200, 0o300, 0o700, 0o755, 0o555, 0o770, 0o050, 0o030, 0o003, 0o001, 0o777, 0o1777, 0o1755, 0o2770)


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    for parent in tmp_path.parents:
        if parent.stat().st_mode & 0o055 != 0o055:
            parent.chmod(0o755)
    tmp_path.chmod(0o755)
    (tmp_path / "drop").mkdir()
    return tmp_path / "drop"


def removes(path: Path, uid: int) -> bool:
    """Let a user remove a file, who has no groups but his own."""
    done = subprocess.run(
        ["unlink", path], user=uid, group=uid, extra_groups=[], stderr=subprocess.DEVNULL, check=False
    )
    return done.returncode == 0


def judged(path: Path) -> bool:
    found = find_directory(Host(), str(path.parent))
    with OpenFd(found.fd):
        return may_remove(Host(), found, path.stat())


@pytest.mark.parametrize("uids", [(0, USER), (USER, USER), (OTHER, USER), (USER, 0)])
def test_owner_may_remove_a_file_as_the_kernel_says(drop: Path, uids: tuple[int, int]) -> None:
    """Whoever owns the directory, whatever its mode, the owner of a file and root."""
    directory_uid, uid = uids
    for mode in MODES:
        (drop / "file").touch()
        os.chown(drop / "file", uid, uid)
        os.chown(drop, directory_uid, directory_uid)
        drop.chmod(mode)
        answer = judged(drop / "file")
        assert answer == removes(drop / "file", uid), f"{mode:o}"


def test_owner_may_remove_a_file_in_a_directory_of_his_group(drop: Path) -> None:
    """A file has the group of its directory where that is set-gid, or where its owner's is the same."""
    os.chown(drop, 0, USER)
    (drop / "file").touch()
    os.chown(drop / "file", USER, USER)
    for mode, answer in ((0o770, True), (0o750, False), (0o2770, True)):
        drop.chmod(mode)
        assert judged(drop / "file") is answer


def acl() -> bytes:
    """Return a list that lets everybody write but USER. Source: posix_acl_xattr.h in include/uapi/linux."""
    none = 0xFFFFFFFF
    entries = ((1, 7, none), (2, 5, USER), (4, 7, none), (16, 7, none), (32, 7, none))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_owner_may_remove_nothing_by_an_access_control_list(drop: Path) -> None:
    """Mode bits are its mask then; it is not read, so what it allows is not believed either."""
    (drop / "file").touch()
    os.chown(drop / "file", USER, USER)
    drop.chmod(0o777)
    assert judged(drop / "file")
    os.setxattr(drop, "system.posix_acl_access", acl())
    assert not judged(drop / "file")
    assert not removes(drop / "file", USER)


def test_root_removes_its_own_only_where_nobody_else_puts_directories(drop: Path) -> None:
    """The owner of the parent may have renamed one of root's directories to the path; in a sticky one he may not."""
    (drop / "file").touch()
    for uid, mode, answer in (
        (0, 0o755, True),
        (0, 0o1777, True),
        (0, 0o777, False),
        (USER, 0o755, False),
        (USER, 0o1755, False),
    ):
        os.chown(drop.parent, uid, 0)
        drop.parent.chmod(mode)
        assert judged(drop / "file") is answer, f"{uid} {mode:o}"
    os.chown(drop, USER, USER)
    assert judged(drop / "file")
