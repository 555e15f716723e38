"""``/etc/subuid``."""

from __future__ import annotations

from pathlib import Path

from collector.host.files import Host
from collector.host.subordinates import owners


def test_subordinate_uids_are_read_by_name_and_number(tmp_path: Path) -> None:
    """Lines that cannot be read are left out."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_bytes(b"root:x:0:0:root:/root:/bin/sh\nshort\n\nbroken:x:y:0:::\n")
    lines = b"broken:3:2\nroot:100000:65536\n1000:200000:65536\nnobody-of-that-name:1:2\n# x\n\xff:1:2\n\n1001:x:1\n"
    (tmp_path / "etc/subuid").write_bytes(lines)
    users = owners(Host(str(tmp_path)))
    assert [(one.first, one.uid) for one in users.subordinate] == [(100_000, 0), (200_000, 1000)]


def test_subordinate_uids_are_none_without_the_file(tmp_path: Path) -> None:
    """Most containers have none."""
    assert owners(Host(str(tmp_path))).subordinate == ()
