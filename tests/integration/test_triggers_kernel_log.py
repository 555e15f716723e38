"""The kernel's log: real lines of the real kernel, and lines that somebody made up."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from collector.host.files import Host
from collector.host.identity import identify
from collector.host.kmsg import Kmsg
from collector.model.errors import UsageError
from collector.model.marker import Marker, MarkerKind
from collector.triggers.base import TriggerContext, Watch
from collector.triggers.kernel_log import KernelLog

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="writes to /dev/kmsg")]
NULL_POINTER = "import ctypes; ctypes.string_at(0)"

Opener = Callable[..., Watch]


@pytest.fixture
def notes() -> dict[str, str]:
    return {}


@pytest.fixture
def ctx(tmp_path: Path, notes: dict[str, str]) -> TriggerContext:
    return TriggerContext(
        id="kernel",
        host=Host(),
        ignore=(),
        runtime_directory=str(tmp_path),
        remember=notes.__setitem__,
        recall=notes.get,
    )


@pytest.fixture
def watching(ctx: TriggerContext) -> Iterator[Opener]:
    opened: list[Watch] = []

    def start(**options: object) -> Watch:
        watch = KernelLog(pstore=False, **options).open(ctx)  # type: ignore[arg-type]
        opened.append(watch)
        assert list(watch.poll()) == []
        return watch

    yield start
    for watch in opened:
        watch.close()


def drain(watch: Watch) -> list[Marker]:
    markers: list[Marker] = []
    while select.select([watch], [], [], 0.2)[0]:
        markers += watch.read()
    return markers


def segfault() -> int:
    """A real one; the kernel logs at most ten in five seconds (show_unhandled_signals is rate-limited)."""
    child = subprocess.Popen([sys.executable, "-c", NULL_POINTER])
    assert child.wait() == -signal.SIGSEGV
    return child.pid


def of(markers: list[Marker], pid: int) -> list[Marker]:
    return [marker for marker in markers if marker.process and marker.process.pid == pid]


def say(text: str) -> None:
    """As `logger -p kern.err` would, if that worked: the kernel gives whoever writes the facility "user"."""
    with open("/dev/kmsg", "w") as kmsg:
        kmsg.write(f"<3>{text}")


def test_kernel_log_tells_a_real_segfault(watching: Opener) -> None:
    """The line names PID and command."""
    watch = watching()
    pid = segfault()
    (marker,) = of(drain(watch), pid)
    assert marker.kind is MarkerKind.KERNEL_LOG
    assert (marker.attributes["event"], (marker.comm or "")[:6]) == ("segfault", "python")


def test_kernel_log_refuses_what_the_kernel_did_not_say(watching: Opener) -> None:
    """The facility cannot be forged: root itself gets "user" when it asks for "kern"."""
    log = Kmsg(Host(), at_end=True)
    watch = watching()
    for attempt in range(20):  # the kernel drops lines from /dev/kmsg beyond ten in five seconds
        say(f"evil{attempt}[4711]: segfault at 0 ip 0 sp 0 error 4")
        arrived = [record for record in log.records() if record.message.startswith("evil")]
        if arrived:
            break
        time.sleep(0.5)
    log.close()
    assert {record.facility for record in arrived} == {"user"}
    assert of(drain(watch), 4711) == []


def test_kernel_log_goes_on_where_it_was_left(watching: Opener, notes: dict[str, str]) -> None:
    """What was logged between two lives of the daemon is told, once."""
    first = watching()
    before = segfault()
    assert len(of(drain(first), before)) == 1
    first.close()
    between = segfault()
    second = watching()
    markers = drain(second)
    assert len(of(markers, between)) == 1
    assert of(markers, before) == []
    assert second.lost == 0


def test_kernel_log_begins_at_the_end_when_it_has_no_past(watching: Opener) -> None:
    """An installation does not collect last month's crashes."""
    pid = segfault()
    watch = watching()
    assert of(drain(watch), pid) == []


def test_kernel_log_reads_all_of_a_new_boot(watching: Opener, notes: dict[str, str]) -> None:
    """What happened before the daemon started is news after a reboot."""
    notes["kernel.kmsg"] = "00000000-0000-0000-0000-000000000000 999999999"
    pid = segfault()
    watch = watching()
    assert len(of(drain(watch), pid)) == 1


def test_kernel_log_counts_what_was_overwritten_meanwhile(watching: Opener, notes: dict[str, str]) -> None:
    """What the ring lost while no daemon ran is told: crashes may have been among it."""
    if oldest_record() < 6:
        if "CI" not in os.environ:
            pytest.skip("this kernel's log has lost nothing since boot, and it is not ours to overwrite")
        overwrite_kernel_log()
    oldest = oldest_record()
    notes["kernel.kmsg"] = f"{identify(Host()).boot_id} {oldest - 6}"
    watch = watching()
    list(watch.read())
    assert watch.lost >= 5


def oldest_record() -> int:
    kmsg = Kmsg(Host())
    try:
        return next(kmsg.records()).seq
    finally:
        kmsg.close()


def overwrite_kernel_log() -> None:
    """Write lines of 900 bytes until the ring gives up its first ones: 0.03 s where it holds 128 KiB."""
    limit = Path("/proc/sys/kernel/printk_devkmsg")
    before = limit.read_text()
    try:
        limit.write_text("on\n")  # instead of 10 lines in 5 s
        with open("/dev/kmsg", "wb", buffering=0) as log:
            while oldest_record() < 6:
                for _ in range(500):
                    log.write(b"<7>collector-test: " + b"x" * 900)
    finally:
        limit.write_text(before)


def test_kernel_log_counts_the_cores_that_the_kernel_gave_up(watching: Opener) -> None:
    """A core handler that cannot be started: the crash is a marker, and its core is told as lost."""
    watch = watching()
    pattern = Path("/proc/sys/kernel/core_pattern")
    with open("/tmp/core_pattern.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = pattern.read_text()
        try:
            pattern.write_text("|/nonexistent/core-handler %P")
            pid = segfault()
        finally:
            pattern.write_text(before)
    events = {marker.attributes["event"] for marker in of(drain(watch), pid)}
    assert events == {"segfault", "core_lost"}
    assert watch.lost >= 1


def test_kernel_log_finds_own_patterns(ctx: TriggerContext) -> None:
    """A pattern that is none is an error at load, not a rule that never matches."""
    with pytest.raises(UsageError, match="not a regular expression"):
        KernelLog(patterns=("(",)).open(ctx)


def test_kernel_log_tells_a_panic_of_the_last_boot_once(tmp_path: Path, notes: dict[str, str]) -> None:
    """Whatever backend holds it, the files appear in pstore; they stay until somebody removes them."""
    for directory in ("dev", "proc/sys/kernel/random", "sys/fs/pstore"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "dev/kmsg").touch()
    (tmp_path / "proc/sys/kernel/random/boot_id").write_text("boot\n")
    (tmp_path / "sys/fs/pstore/dmesg-erst-1").write_text("Panic#1 Part1")
    host = Host(root=str(tmp_path))
    told = []
    for _ in range(2):
        ctx = TriggerContext(
            id="kernel", host=host, ignore=(), runtime_directory="/", remember=notes.__setitem__, recall=notes.get
        )
        watch = KernelLog().open(ctx)
        told += [marker.attributes["event"] for marker in watch.poll()]
        watch.close()
    assert told == ["panic"]
