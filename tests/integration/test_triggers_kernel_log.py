"""The kernel's log: real lines of the real kernel, and forged ones."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from memory_group import memory_group
from watching import drain, of_process, opened, trigger_context

from collector.host.files import Host
from collector.host.identity import identify
from collector.host.kmsg import Kmsg
from collector.model.marker import OOM_CGROUP, MarkerKind
from collector.triggers.base import TriggerContext, Watch
from collector.triggers.kernel_lines import ProcessLine, context_of
from collector.triggers.kernel_log import KernelLog

pytestmark = pytest.mark.root
NULL_POINTER = "import ctypes, sys; open('/proc/self/comm', 'w').write(sys.argv[1]); ctypes.string_at(0)"

EATER = "import sys; open('/proc/self/comm', 'w').write(sys.argv[1]); print(flush=True); input(); b'x' * (64 << 20)"

Opener = Callable[..., Watch]


@pytest.fixture
def notes() -> dict[str, str]:
    return {}


@pytest.fixture
def ctx(tmp_path: Path, notes: dict[str, str]) -> TriggerContext:
    return trigger_context(tmp_path, notes=notes)


@pytest.fixture
def watching(ctx: TriggerContext) -> Iterator[Opener]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(opened(KernelLog(pstore=False), ctx))


def segfault(name: str = "python") -> int:
    """A real one that the kernel has logged: it logs at most ten in five seconds, those of others included."""
    log = Kmsg(Host(), at_end=True)
    try:
        for _ in range(20):
            child = subprocess.Popen([sys.executable, "-c", NULL_POINTER, name])
            assert child.wait() == -signal.SIGSEGV
            if any(f"[{child.pid}]: segfault" in record.message for record in log.records()):
                return child.pid
            time.sleep(0.5)
    finally:
        log.close()
    raise AssertionError("the kernel has logged no segfault")


def say(text: str) -> None:
    """As `logger -p kern.err` would, if that worked: the kernel gives whoever writes the facility "user"."""
    with open("/dev/kmsg", "w") as kmsg:
        kmsg.write(f"<3>{text}")


def test_kernel_log_reports_a_real_segfault(watching: Opener) -> None:
    """With PID and command."""
    watch = watching()
    pid = segfault()
    (marker,) = of_process(drain(watch), pid)
    assert marker.kind is MarkerKind.KERNEL_LOG
    assert (marker.attributes["event"], (marker.comm or "")[:6]) == ("segfault", "python")


@pytest.mark.parametrize("name", ["b[1] trap ", "b[1]: segfault ", "Oops: b[1]: "])
def test_kernel_log_names_the_process_that_crashed_when_its_name_is_planted(watching: Opener, name: str) -> None:
    """PID 1 has not crashed."""
    watch = watching()
    pid = segfault(name)
    markers = drain(watch)
    (marker,) = of_process(markers, pid)
    assert (marker.attributes["event"], marker.comm) == ("segfault", name)
    assert of_process(markers, 1) == []


@pytest.mark.parametrize("name", ["eater", "b Not tainted", ",task=b,pid=1"])
def test_kernel_log_tells_the_control_group_of_a_real_oom_kill(watching: Opener, name: str) -> None:
    """In lines ahead of the kill, unless a name makes two readings of them; one says in which process it happened."""
    log, watch = Kmsg(Host(), at_end=True), watching()
    with memory_group() as group:
        eater = subprocess.Popen([sys.executable, "-c", EATER, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert eater.stdout is not None
        assert eater.stdout.readline() == b"\n"
        group.limit(32 << 20)
        group.take(eater.pid)
        eater.communicate(b"\n")
        assert eater.returncode == -signal.SIGKILL
        where = f"/{group.path.name}"
    (marker,) = of_process(drain(watch), eater.pid)
    contexts = [context_of(record.message) for record in log.records()]
    log.close()
    assert (marker.attributes["event"], marker.comm) == ("oom_kill", name)
    said = {key: value for key, value in marker.attributes.items() if key.startswith("oom_")}
    told = {"oom_constraint": "CONSTRAINT_MEMCG", "oom_memcg": where}
    group_of_it = said.pop(OOM_CGROUP, "")
    assert said == ({} if ",task=" in name else told)
    assert group_of_it.endswith("" if ",task=" in name else f":{where}\n")
    named = [line._replace(cpu=None) for line in contexts if line is not None and line.pid == eater.pid]
    assert ProcessLine(eater.pid, name) in named


def test_kernel_log_names_nobody_when_a_pattern_can_be_read_in_two_ways(ctx: TriggerContext) -> None:
    """The marker is there, and says why it has no process."""
    trigger = KernelLog(events=(), patterns=(r"\[(?P<pid>\d+)\]",), pstore=False)
    with opened(trigger, ctx) as watch:
        pid = segfault("planted[1]")
        (marker,) = (marker for marker in drain(watch) if f"planted[1][{pid}]: segfault" in marker.reason)
    assert marker.process is None
    assert marker.attributes["no_process"] == f"the line can be read as naming PID 1 or PID {pid}"


def test_kernel_log_ignores_lines_that_are_not_the_kernels(watching: Opener) -> None:
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
    assert of_process(drain(watch), 4711) == []


def test_kernel_log_continues_from_its_last_position(watching: Opener, notes: dict[str, str]) -> None:
    """What was logged between two runs of the daemon is reported once."""
    first = watching()
    before = segfault()
    assert len(of_process(drain(first), before)) == 1
    first.close()
    between = segfault()
    second = watching()
    markers = drain(second)
    assert len(of_process(markers, between)) == 1
    assert of_process(markers, before) == []
    assert second.lost == 0


def test_kernel_log_begins_at_the_end_when_it_has_no_position(watching: Opener) -> None:
    """A new installation does not collect last month's crashes."""
    pid = segfault()
    watch = watching()
    assert of_process(drain(watch), pid) == []


def test_kernel_log_reads_all_of_a_new_boot(watching: Opener, notes: dict[str, str]) -> None:
    """What happened before the daemon started is new after a reboot."""
    notes["test.kmsg"] = "00000000-0000-0000-0000-000000000000 999999999"
    pid = segfault()
    watch = watching()
    assert len(of_process(drain(watch), pid)) == 1


def test_kernel_log_counts_records_that_were_overwritten(watching: Opener, notes: dict[str, str]) -> None:
    """What the ring lost while no daemon ran may have included crashes."""
    if oldest_record() < 6:
        if "CI" not in os.environ:
            pytest.skip("this kernel's log has lost nothing since boot, and it is not ours to overwrite")
        overwrite_kernel_log()
    oldest = oldest_record()
    notes["test.kmsg"] = f"{identify(Host()).boot_id} {oldest - 6}"
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


def test_kernel_log_counts_cores_that_the_kernel_gave_up(watching: Opener) -> None:
    """A core handler that cannot be started: the crash is a marker, and its core counts as lost."""
    watch = watching()
    pattern = Path("/proc/sys/kernel/core_pattern")
    with open("/tmp/core_pattern.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = pattern.read_text()
        try:
            pattern.write_text("|/nonexistent/core-handler %P")
            events: set[str] = set()
            for _ in range(20):  # these lines are rate-limited, too; that of any process will do
                segfault()
                events |= {marker.attributes["event"] for marker in drain(watch)}
                if "core_lost" in events:
                    break
        finally:
            pattern.write_text(before)
    assert events >= {"segfault", "core_lost"}
    assert watch.lost >= 1


def test_kernel_log_refuses_an_invalid_pattern(ctx: TriggerContext) -> None:
    """It is an error at load, not a rule that never matches."""
    with pytest.raises(ValueError, match="not a regular expression"):
        KernelLog(patterns=("(",)).open(ctx)


def test_kernel_log_reports_a_panic_of_the_last_boot_once(tmp_path: Path, notes: dict[str, str]) -> None:
    """The files appear in pstore, whatever the backend, and stay until somebody removes them."""
    for directory in ("dev", "proc/sys/kernel/random", "sys/fs/pstore"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "dev/kmsg").touch()
    (tmp_path / "proc/sys/kernel/random/boot_id").write_text("boot\n")
    (tmp_path / "sys/fs/pstore/dmesg-erst-1").write_text("Panic#1 Part1")
    told = []
    for _ in range(2):
        watch = KernelLog().open(trigger_context(tmp_path, root=str(tmp_path), notes=notes))
        told += [marker.attributes["event"] for marker in watch.poll()]
        watch.close()
    assert told == ["panic"]
