from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from collecting import Collected, collect, context

from collector.collectors.dmesg import Dmesg

pytestmark = pytest.mark.root


def say(text: str) -> None:
    """Write a record to the kernel log, as a user."""
    with open("/dev/kmsg", "wb") as kmsg:
        kmsg.write(f"<12>{text}\n".encode())


def mark() -> str:
    return f"collector-test-{os.getpid()}-{time.monotonic_ns()}"


def messages(collected: Collected) -> list[str]:
    return [row["message"] for row in collected.rows("dmesg.jsonl") if "message" in row]


def test_dmesg_has_all_records_in_both_forms() -> None:
    """The same records as lines of JSON and as text."""
    words = mark()
    say(words)
    collected = collect(Dmesg())
    (row,) = [row for row in collected.rows("dmesg.jsonl") if row.get("message") == words]
    assert (row["facility"], row["level"]) == ("user", "warning")
    assert f"user    warning {words}\n" in collected.text("dmesg.txt")
    assert len(collected.text("dmesg.txt").splitlines()) == len(collected.rows("dmesg.jsonl"))


def test_dmesg_hides_secrets_in_the_kernels_command_line() -> None:
    """In both forms; other records are kept as they are, for a kernel's keys are not secrets."""
    words = mark()
    say(f"{words} Command line: ro rd.iscsi.password={words}-hidden quiet")
    say(f"{words} Loaded X.509 cert, key: {words}-shown")
    collected = collect(Dmesg())
    for text in (collected.text("dmesg.txt"), collected["dmesg.jsonl"].decode()):
        assert f"{words} Command line: ro rd.iscsi.password=[redacted] quiet" in text
        assert f"{words}-hidden" not in text
        assert f"key: {words}-shown" in text


def test_dmesg_has_the_records_since_a_time() -> None:
    """Older records are left out, and so are those after the start: the log never ends."""
    old, new = mark(), mark() + "-new"
    say(old)
    time.sleep(0.3)
    say(new)
    found = messages(collect(Dmesg(since=0.25)))  # type: ignore[arg-type]
    assert new in found
    assert old not in found


def test_dmesg_ends_although_the_log_goes_on() -> None:
    """Records that arrive while it is read are left out, and both forms end at the same record."""
    steps = Dmesg().collect(context())
    first = next(steps)
    late = mark()
    say(late)
    assert late.encode() not in b"".join(first.body)  # type: ignore[arg-type]
    assert late.encode() not in b"".join(next(steps).body)  # type: ignore[arg-type]


def test_dmesg_shows_no_control_characters() -> None:
    """What users write to /dev/kmsg cannot clear an engineer's screen or forge a line."""
    words = mark()
    say(f"{words}\x1b[2J\x07 end")
    collected = collect(Dmesg(since=60.0))  # type: ignore[arg-type]
    assert rf"{words}\x1b[2J\x07 end" in messages(collected)
    assert b"\x1b" not in collected["dmesg.txt"]


@pytest.mark.slow  # it wraps the kernel's log around, which others on the machine may want to read
def test_dmesg_says_how_many_records_were_overwritten() -> None:
    """The kernel wraps around its buffer between two reads: both forms give the size of the gap."""
    words = mark()
    for _ in range(2000):
        say(words)
    steps = Dmesg().collect(context())
    body = iter(next(steps).body)  # type: ignore[arg-type]
    data = next(body)
    for _ in range(2000):
        say(words + "x" * 800)
    data += b"".join(body)
    (lost,) = [row["overwritten"] for row in map(msgspec.json.decode, data.splitlines()) if "overwritten" in row]
    assert lost > 100


AS_NOBODY = """
import os, sys
sys.path.insert(0, sys.argv[1])
from collecting import collect
from collector.collectors.dmesg import Dmesg
os.setresuid(65534, 65534, 65534)
collected = collect(Dmesg())
print(collected.error, collected.error and collected.error.hint)
"""


def test_dmesg_without_permission_fails_with_a_hint() -> None:
    """kernel.dmesg_restrict, or the mode of /dev/kmsg: the step says what to do."""
    argv = [sys.executable, "-c", AS_NOBODY, str(Path(__file__).parents[1])]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert said == "/dev/kmsg: Operation not permitted run as root, or with CAP_SYSLOG\n"
