"""``/etc/passwd`` and ``/etc/group``."""

from __future__ import annotations

from pathlib import Path

import pytest

from collector.host.files import Host
from collector.host.groups import is_member

PASSWD = b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\nother:x:1001:1001::/:/bin/sh\n\xff:x:\n"
GROUP = b"root:x:0:\nengine:x:50:app,third\nbad\nother:x:51:otherwise\n"


@pytest.mark.parametrize(
    ("uid", "gid", "member"),
    [(1000, 1000, True), (1000, 50, True), (1001, 50, False), (1001, 51, False), (1002, 50, False), (1000, 7, False)],
)
def test_member_has_the_group_or_is_listed_in_it(tmp_path: Path, uid: int, gid: int, member: bool) -> None:
    """By whole names; whoever these files do not know is in no group."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_bytes(PASSWD)
    (tmp_path / "etc/group").write_bytes(GROUP)
    assert is_member(Host(str(tmp_path)), uid, gid) is member


def test_member_is_nobody_without_the_files(tmp_path: Path) -> None:
    """They need not exist."""
    assert not is_member(Host(str(tmp_path)), 0, 0)
