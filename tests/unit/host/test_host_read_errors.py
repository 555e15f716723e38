from __future__ import annotations

from collecting import take

from collector.host.read_errors import MAX_ROWS, ReadErrors


def test_read_errors_say_what_and_why() -> None:
    """The kernel's name for it, and what to do about it."""
    unread = ReadErrors()
    unread.add("/proc/1/\x1bfile", PermissionError(13, "Permission denied"))
    unread.add("/x", "our own rule")
    (artifact,) = unread.artifacts()
    assert take(artifact).data.decode().splitlines() == [
        r'{"path":"/proc/1/\\x1bfile","error":"EACCES","meaning":"not allowed: run as root"}',
        '{"path":"/x","error":"","meaning":"our own rule"}',
    ]


def test_read_errors_yield_nothing_when_everything_was_read() -> None:
    """No empty file."""
    assert list(ReadErrors().artifacts()) == []


def test_read_errors_are_bounded_and_count_the_rest() -> None:
    """A directory of a million sockets does not exhaust memory."""
    unread = ReadErrors()
    for number in range(MAX_ROWS + 500):
        unread.add(str(number), "no")
    (artifact,) = unread.artifacts()
    lines = take(artifact).data.splitlines()
    assert len(lines) == MAX_ROWS + 1
    assert b"and 500 more" in lines[-1]
    assert len(unread) == MAX_ROWS + 500


def test_read_errors_of_one_user_leave_room_for_those_of_others() -> None:
    """Two thousand sockets that somebody planted do not hide the log that could not be read."""
    unread = ReadErrors()
    for number in range(2 * MAX_ROWS):
        unread.add(str(number), "a socket", "uid 1000")
    unread.add("/var/log/engine.log", "not allowed")
    (artifact,) = unread.artifacts()
    lines = take(artifact).data.splitlines()
    assert any(b"engine.log" in line for line in lines)
    assert b"and 1001 more (uid 1000: 1001)" in lines[-1]
