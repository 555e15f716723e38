from __future__ import annotations

import fcntl
import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.host.files import Host
from collector.host.kmsg import Kmsg, parse_record


def test_parse_record_reads_prefix_message_and_details() -> None:
    """Documentation/ABI/testing/dev-kmsg gives this very record."""
    raw = (
        b"7,160,424069,-;pci_root PNP0A03:00: host bridge window [io  0x0000-0x0cf7] (ignored)\n"
        b" SUBSYSTEM=acpi\n DEVICE=+acpi:PNP0A03:00\n"
    )
    record = parse_record(raw)
    assert (record.facility, record.level, record.seq, record.time_s, record.flags) == (
        "kern",
        "debug",
        160,
        0.424069,
        "-",
    )
    assert record.message.startswith("pci_root PNP0A03:00: host bridge")
    assert record.details == {"SUBSYSTEM": "acpi", "DEVICE": "+acpi:PNP0A03:00"}


@pytest.mark.parametrize(("fields", "caller"), [
    ("-", ""), ("-,caller=T1", "T1"), ("c,more=1,caller=C3", "C3"), ("-,more,caller", ""),
])  # fmt: skip
def test_parse_record_tells_who_wrote_it(fields: str, caller: str) -> None:
    """With CONFIG_PRINTK_CALLER, a thread or a CPU; newer kernels may add fields after the flags."""
    record = parse_record(f"6,1,2,{fields};hello\n".encode())
    assert (record.message, record.caller) == ("hello", caller)


def test_parse_record_names_the_facility() -> None:
    """What a user writes to /dev/kmsg is not attributed to the kernel."""
    assert parse_record(b"11,1,2,-;a fake oops\n").facility == "user"
    assert parse_record(b"8191,1,2,-;x\n").facility == "1023"


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (rb"caf\xc3\xa9", "café"),
        (rb"a\x1b[2Jb", r"a\x1b[2Jb"),
        (rb"back\x5cslash", r"back\\slash"),
        (rb"two\x0alines", r"two\x0alines"),
        (rb"\xff", r"\xff"),
        (b"a;b,c", "a;b,c"),
    ],
)
def test_parse_record_undoes_the_kernels_escapes_and_shows_no_control(raw: bytes, message: str) -> None:
    """Text comes back, control characters do not."""
    assert parse_record(b"6,1,2,-;" + raw + b"\n").message == message


@pytest.mark.parametrize("raw", [b"", b"hello", b"6,1;x", b"a,1,2,-;x"])
def test_parse_record_refuses_what_is_not_a_record(raw: bytes) -> None:
    """A line without a prefix is not a record."""
    with pytest.raises(ValueError, match=r"kmsg|int"):
        parse_record(raw)


@pytest.fixture
def packets(tmp_path: Path) -> Iterator[tuple[Host, int]]:
    """A log of our own: a FIFO that keeps the bounds of what is written, and its write end."""
    (tmp_path / "dev").mkdir()
    os.mkfifo(tmp_path / "dev" / "kmsg")
    fd = os.open(tmp_path / "dev" / "kmsg", os.O_RDWR)
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT)
    yield Host(str(tmp_path)), fd
    os.close(fd)


def test_kmsg_counts_the_records_that_were_overwritten(packets: tuple[Host, int]) -> None:
    """A gap in the numbers counts as lost; the first number does not."""
    host, fd = packets
    for seq in (7, 8, 12, 13):
        os.write(fd, f"6,{seq},1,-;hello\n".encode())
    log = Kmsg(host)
    assert [(record.seq, log.lost) for record in log.records()] == [(7, 0), (8, 0), (12, 3), (13, 3)]
    assert list(log.records()) == []
    os.write(fd, b"6,15,1,-;later\n")
    assert [record.seq for record in log.records()] == [15]
    assert log.lost == 4
    log.close()


def test_kmsg_newest_is_the_last_record_available(packets: tuple[Host, int]) -> None:
    """It gives the reader an end in a log that never ends."""
    host, fd = packets
    log = Kmsg(host)
    assert log.newest_seq() is None
    for seq in (7, 9):
        os.write(fd, f"6,{seq},1,-;hello\n".encode())
    assert log.newest_seq() == 9
    log.close()


@pytest.mark.root
def test_kmsg_gives_what_is_written_behind_its_start() -> None:
    """At the end, nothing; then what came since, without ever waiting."""
    log = Kmsg(Host(), at_end=True)
    try:
        words = f"collector-test {os.getpid()} {time.monotonic_ns()}"
        with open("/dev/kmsg", "w", encoding="ascii") as kmsg:
            kmsg.write(f"<12>{words}\n")
        assert select.select([log.fileno()], [], [], 5)[0]
        record = next(record for record in log.records() if words in record.message)
        assert (record.facility, record.level) == ("user", "warning")
        assert [found for found in log.records() if words in found.message] == []
        assert log.lost == 0
    finally:
        log.close()
