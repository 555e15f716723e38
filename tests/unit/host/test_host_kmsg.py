from __future__ import annotations

import os
import select
import time

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


def test_parse_record_takes_further_fields() -> None:
    """Newer kernels may add fields behind the flags; the caller's id is one."""
    assert parse_record(b"6,1,2,-,caller=T1;hello\n").message == "hello"


def test_parse_record_names_the_facility() -> None:
    """What a user wrote into /dev/kmsg is not the kernel's word."""
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
def test_parse_record_refuses_what_is_none(raw: bytes) -> None:
    """A line that has no prefix is no record."""
    with pytest.raises(ValueError, match=r"kmsg|int"):
        parse_record(raw)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="/dev/kmsg needs root")
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
