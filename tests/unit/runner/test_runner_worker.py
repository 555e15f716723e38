"""How a worker ends."""

from __future__ import annotations

import socket
from contextlib import closing

from collector.runner import worker


def test_worker_ends_quietly_when_the_supervisor_was_killed() -> None:
    """The kernel then resets the connection, if a reply was left unread: that is no bug."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with closing(theirs):
        theirs.send(b"progress")
        ours.close()
        assert worker._next_job(theirs) is None
