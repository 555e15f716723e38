"""What `/proc` says of a process that dumps, and what it does not say of one that does not, or is gone."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

from collector.host.dumping import crashed_thread, death_signal, is_dumping, pidfd_process, private_bytes
from collector.host.files import Host, OpenFd

NOBODYS = 4000077


def test_living_process_does_not_dump() -> None:
    own = os.getpid()
    assert (is_dumping(Host(), own), crashed_thread(Host(), own), death_signal(Host(), own)) == (False, None, None)
    assert private_bytes(Host(), own) > 0


def test_process_that_is_gone_tells_nothing() -> None:
    assert (is_dumping(Host(), NOBODYS), crashed_thread(Host(), NOBODYS)) == (False, None)
    assert (death_signal(Host(), NOBODYS), private_bytes(Host(), NOBODYS)) == (None, 0)


def test_dump_is_not_claimed_by_a_name(tmp_path: Path) -> None:
    """A line break in a name is escaped by the kernel; what else it may hold does not count as a line either."""
    process = tmp_path / "proc" / "7"
    process.mkdir(parents=True)
    (process / "status").write_text("Name:\tx CoreDumping:\t1\nUid:\t0\nCoreDumping:\t0\n", encoding="utf-8")
    assert not is_dumping(Host(root=str(tmp_path)), 7)


def test_pidfd_names_its_process_and_another_descriptor_none() -> None:
    with OpenFd(os.pidfd_open(os.getpid())) as pidfd, closing(open(os.devnull, "rb")) as other:
        assert pidfd_process(Host(), pidfd) == os.getpid()
        assert pidfd_process(Host(), other.fileno()) is None
