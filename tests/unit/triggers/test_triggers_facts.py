"""What a report says, and what it must not be able to say."""

from __future__ import annotations

import pytest

from collector.host.files import Host
from collector.model.marker import Marker, MarkerKind
from collector.triggers.facts import MAX_FACTS, MAX_LINES, TEXT_LENGTH, Speaker, marker_of, parse

ROOT = Speaker(kind=MarkerKind.EXIT, trigger="t", uid=0, what="exit file")


def read(data: str | bytes) -> Marker:
    return marker_of(parse(data if isinstance(data, bytes) else data.encode()), ROOT, Host())


def pid(marker: Marker) -> int | None:
    return marker.process and marker.process.pid


@pytest.mark.parametrize("separator", ["\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
def test_facts_are_separated_by_line_feeds_only(separator: str) -> None:
    """A process chooses its name: it cannot write a second fact."""
    marker = read(f"COMM=a{separator}PID=4711\nUNIT=b.service\n")
    assert (pid(marker), marker.unit) == (None, "b.service")
    assert marker.comm is not None
    assert marker.comm.endswith("PID=4711")


@pytest.mark.parametrize(
    "data",
    ["PID=41\nCOMM=a\nPID=42", "PID=41\npid=41", '{"pid": 41, "pid": 42}', '{"pid": 41, "PID": 42}', "A=1\n" * 99],
)
def test_facts_with_a_key_given_twice_are_refused(data: str) -> None:
    """Neither value can be trusted, wherever it stands; the reason is recorded."""
    marker = read(data)
    assert (pid(marker), marker.comm) == (None, None)
    assert str(marker.refused).endswith(" is given twice")


@pytest.mark.parametrize(
    "data",
    [
        'PID="41"\nCOMM="a b"\nSIGNAL="segv"',
        "PID = 41\r\nCOMM = a b\r\nSIGNAL = 'SIGSEGV'\r\n",
        "\ufeffPID=41\nCOMM=a b\n\n# a comment\nSIGNAL= 11 ",
        '\ufeff{"pid": 41, "comm": "a b", "signal": "Segv", "more": {"a": [1, null]}}',
        "pid=41\ncomm=a b\nexit_status=segv",
        'MONITOR_PID="41"\nCOMM=a b\nEXIT_CODE=DUMPED\nEXIT_STATUS=11',
    ],
)
def test_facts_are_understood_as_people_write_them(data: str) -> None:
    """Quotes, blanks, byte order marks, CRLF, lower case, nested JSON."""
    marker = read(data)
    assert (pid(marker), marker.comm, marker.signal, marker.refused) == (41, "a b", 11, None)
    assert marker.reason == "exit file"


@pytest.mark.parametrize(("name", "number"), [("RTMIN+3", 37), ("SIGRTMIN+3", 37), ("rtmax-1", 63), ("37", 37)])
def test_facts_know_real_time_signals(name: str, number: int) -> None:
    """As systemd, kill(1) and the kernel write them."""
    assert read(f"SIGNAL={name}").signal == read(f"EXIT_CODE=killed\nEXIT_STATUS={name}").signal == number


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("PID=0x29", "PID=0x29 is not a number"),
        ("PID=0", "PID=0 is not a process"),
        ('{"pid": {"host": 41}}', 'PID={"host": 41} is not a number'),
        ('{"pid": true}', "PID=true is not a number"),
        ("SIGNAL=SEGFAULT", "SIGNAL=SEGFAULT is not a signal"),
        ("SIGNAL=139", "SIGNAL=139 is not a signal"),
        ("EXIT_CODE=killed\nEXIT_STATUS=99", "EXIT_STATUS=99 is not a status or a signal"),
        ("export PID=41", "'export PID' is not a key"),
        ('{"exit-code": 1}', "'exit-code' is not a key"),
        ("PID 41", "'PID 41' is not KEY=VALUE"),
    ],
)
def test_facts_that_are_not_understood_are_said(data: str, said: str) -> None:
    """The crash is not lost for a mistake, but the mistake shows."""
    more = data.replace("}", ', "unit": "a"}', 1) if data.startswith('{"exit') else data
    marker = read(more if more.startswith("{") else more + "\nUNIT=a")
    assert marker.refused is None
    assert (pid(marker), marker.signal) == (None, None)
    assert marker.reason == f"exit file (ignored: {said})"


@pytest.mark.parametrize(
    "data",
    [b"{", b'{"a": 1} x', b'{"a": "\\ud800"}', b"{" * 5000, b'{"a":' * 5000, b'{"a": 1' + b"0" * 5000 + b"}",
     b"\xff=\0", "PID=41".encode("utf-16"), b"hello", b'["a=b"]'],
)  # fmt: skip
def test_facts_that_are_none_are_refused_with_the_reason(data: bytes) -> None:
    """No marker looks as if somebody had reported nothing."""
    assert str(read(data).refused).startswith(("not a JSON object: ", "no facts: "))


def test_facts_are_bounded() -> None:
    """What is beyond the bounds is said."""
    facts = parse(b"".join(b"K%d=1\n" % number for number in range(100)) + b"x\n" * 100)
    assert (len(facts.known), len(facts.ignored)) == (MAX_FACTS, 5)
    assert facts.ignored[0] == "more than 64 facts"
    assert facts.ignored[-1] == "97 more"


def test_facts_nobody_knew_are_empty() -> None:
    """A supervisor may leave out values."""
    assert read("PID=\nSIGNAL=\nUNIT=a").reason == "exit file"


def test_facts_that_nobody_knows_are_bounded_together() -> None:
    """62 KiB of escapes are not made printable one by one; what the program knows is read wherever it stands."""
    known = parse(b"".join(b"K%d=%s\n" % (number, b"\x1b" * 900) for number in range(60)) + b"SIGNAL=SEGV\n").known
    assert known["SIGNAL"] == "SEGV"
    assert sum(map(len, known.values())) <= TEXT_LENGTH + len("SEGV")


@pytest.mark.parametrize(("uid", "unit"), [(0, "engine.service"), (65534, None)])
def test_facts_about_a_unit_are_believed_from_root_only(uid: int, unit: str | None) -> None:
    """Whoever names a unit that the configuration protects does not get its share, however the key is written."""
    text = b"UNIT=engine.service\nCOMM=a\nsystem_unit=engine.service\n"
    said = marker_of(parse(text), Speaker(kind=MarkerKind.EXIT, trigger="t", uid=uid, what="exit file"), Host())
    assert said.attributes.get("system_unit") == unit


@pytest.mark.parametrize("data", [b"K%d=x\n", b"# %d\n", b'"K%d":0,'])
def test_facts_of_too_many_lines_are_refused_unread(data: bytes) -> None:
    """What fits in 64 KiB could take 50 ms each time."""
    begin, end = (b"{", b'"K":0}') if data.startswith(b'"') else (b"", b"PID=1")
    lines = [data % number for number in range(MAX_LINES - 1)]
    assert parse(begin + b"".join(lines) + end).refused is None
    assert "more than 1,024 lines" in str(parse(begin + b"".join([*lines, data % 5000, data % 5001]) + end).refused)
