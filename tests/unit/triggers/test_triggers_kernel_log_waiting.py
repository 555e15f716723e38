"""A kernel's log of our own: what waits for its process is neither lost nor told twice."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from watching import told, trigger_context

from collector.model.identity import is_about_a_process
from collector.model.marker import OOM_CGROUP, SYSTEM_UNIT, Marker
from collector.triggers import kernel_log
from collector.triggers.kernel_catalogue import DEFAULT, EventName
from collector.triggers.kernel_log import KernelLog, KernelLogWatch

NULL = "BUG: kernel NULL pointer dereference, address: 0000000000000000"
CPU = "CPU: 3 UID: 1000 PID: 4000077 Comm: engine Not tainted 6.12.0 #1"


class Log:
    """A FIFO in place of ``/dev/kmsg`` that keeps the bounds of what is written."""

    def __init__(self, root: Path) -> None:
        for directory in ("dev", "proc/sys/kernel/random"):
            (root / directory).mkdir(parents=True)
        os.mkfifo(root / "dev/kmsg")
        (root / "proc/sys/kernel/random/boot_id").write_text("boot\n", encoding="utf-8")
        self.fd = os.open(root / "dev/kmsg", os.O_RDWR | os.O_NONBLOCK)
        fcntl.fcntl(self.fd, fcntl.F_SETFL, os.O_DIRECT | os.O_NONBLOCK)
        self.root, self.seq = root, 100
        self.notes = {"test.kmsg": "boot 100"}

    def say(self, *lines: str, caller: str = "T4000077", facility: int = 0) -> None:
        for line in lines:
            self.seq += 1
            time_us = int(time.monotonic() * 1e6)
            os.write(self.fd, f"{facility << 3 | 1},{self.seq},{time_us},-,caller={caller};{line}\n".encode())

    def watch(self, events: tuple[EventName, ...] = DEFAULT) -> KernelLogWatch:
        ctx = trigger_context(self.root, root=str(self.root), notes=self.notes)
        watch = KernelLog(pstore=False, events=events).open(ctx)
        assert told(watch.poll()) == []
        return watch


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path)
    yield log
    os.close(log.fd)


def read(watch: KernelLogWatch) -> list[Marker]:
    return told(watch.read())


def named_by(marker: Marker) -> tuple[str, str | None]:
    return marker.attributes["identity"], marker.attributes.get("named_by")


def test_kernel_log_names_the_process_of_an_oops(log: Log) -> None:
    """With its start time, as it is still there; the marker has the line that said so, and its writer."""
    process = os.getpid()
    name = Path("/proc/self/comm").read_text(encoding="utf-8").rstrip("\n")
    (log.root / f"proc/{process}").symlink_to(f"/proc/{process}")
    watch, line = log.watch(), f"CPU: 3 UID: 1000 PID: {process} Comm: {name} Not tainted 6.12.0 #1"
    log.say(NULL, "Oops: 0000 [#1] SMP NOPTI")
    assert read(watch) == []
    log.say(line)
    (marker,) = read(watch)
    watch.close()
    assert marker.process is not None
    assert (marker.process.pid, marker.comm, marker.thread, marker.doubtful) == (process, name, process, False)
    assert marker.process.start_time_ticks is not None
    assert marker.uid == os.getuid(), "the real one"
    assert marker.reason == NULL
    said = {key: marker.attributes[key] for key in ("event", "caller", "named_by", "identity")}
    assert said == {"event": "oops", "caller": "T4000077", "named_by": line, "identity": "boot:101"}


def test_kernel_log_leaves_an_oops_to_the_machine_when_its_process_is_gone(log: Log) -> None:
    """A claim would make it a witness of another process's crash, and no incident of its own; the line is kept."""
    watch = log.watch()
    log.say(NULL, CPU)
    (marker,) = read(watch)
    watch.close()
    assert (marker.process, marker.thread, marker.comm, marker.doubtful) == (None, None, None, False)
    assert marker.attributes["named_by"] == CPU
    assert not is_about_a_process(marker)


def test_kernel_log_names_the_process_of_a_fault_that_has_no_number(log: Log) -> None:
    """On s390: it is about that process, and doubtful once it is gone."""
    watch = log.watch()
    log.say("User process fault: interruption code 003b ilc:2 in engine[1000000+1000]", CPU)
    (marker,) = read(watch)
    watch.close()
    assert (marker.thread, marker.comm, marker.doubtful) == (4000077, "engine", True)
    assert marker.attributes["fault_module"] == "engine"


def test_kernel_log_takes_no_process_from_a_line_that_is_not_the_kernels(log: Log) -> None:
    """Whoever may write to /dev/kmsg has another facility, and ends no report."""
    watch = log.watch()
    log.say(NULL)
    log.say("CPU: 3 PID: 1 Comm: init Not tainted 6.12.0 #1", facility=1)
    assert read(watch) == []
    log.say(CPU)
    assert [marker.attributes["named_by"] for marker in read(watch)] == [CPU]
    watch.close()


def test_kernel_log_reports_what_waits_when_the_log_says_no_more(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is polled only while something waits; the event is then told without a process, once."""
    watch = log.watch()
    assert watch.poll_s is None
    log.say(NULL)
    assert read(watch) == []
    assert watch.poll_s is not None
    assert told(watch.poll()) == []
    monkeypatch.setattr(kernel_log, "HOLD_S", 0.0)
    assert [named_by(marker) for marker in told(watch.poll())] == [("boot:101", None)]
    assert (watch.poll_s, told(watch.poll()), log.notes["test.kmsg"]) == (None, [], "boot 101")
    watch.close()


def test_kernel_log_names_nobody_across_lines_that_were_overwritten(log: Log) -> None:
    """The end of the report may be among them, and the beginning of another's."""
    watch = log.watch()
    log.say(NULL)
    log.seq += 3
    log.say(CPU)
    assert [named_by(marker) for marker in read(watch)] == [("boot:101", None)]
    assert watch.lost == 3
    watch.close()


def test_kernel_log_reads_again_what_waited_when_it_was_closed(log: Log) -> None:
    """A restart within a report loses neither the event nor its process, and counts nothing as lost."""
    watch = log.watch()
    log.say("usb 1-1: new device", NULL, "Oops: 0000 [#1] SMP NOPTI")
    assert read(watch) == []
    watch.close()
    assert log.notes["test.kmsg"] == "boot 101"
    log.seq = 100
    again = log.watch()
    log.say("usb 1-1: new device", NULL, "Oops: 0000 [#1] SMP NOPTI", CPU)
    assert [named_by(marker) for marker in read(again)] == [("boot:102", CPU)]
    assert (log.notes["test.kmsg"], again.lost) == ("boot 104", 0)
    again.close()


def test_kernel_log_tells_what_a_segfault_says_in_attributes(log: Log) -> None:
    """For a diagnosis without a core: addresses in one form, the error code as a number."""
    watch = log.watch()
    log.say("engine[4000077]: segfault at 10 ip 00007f0000000010 sp 0000 error 14 in lib[1].so[10,7f0000000000+1000]")
    (marker,) = read(watch)
    watch.close()
    assert {key: value for key, value in marker.attributes.items() if key.startswith("fault_")} == {
        "fault_address": "0x10", "fault_ip": "0x7f0000000010", "fault_error": "20", "fault_module": "lib[1].so",
    }  # fmt: skip


@pytest.mark.parametrize(("line", "event"), [
    ("WARNING: CPU: 3 PID: 4000077 at mm/slub.c:300 f+0x1/0x2", "warning"), ("UBSAN: a in b.c:1:2", "ubsan"),
    ("list_add corruption. prev->next should be next", "list_corruption"),
    ("md/raid1:md0: Disk failure on sdb1, disabling device.", "md"),
    ("device-mapper: multipath: 253:3: Failing path 8:16.", "multipath"), ("ata3.00: exception Emask 0x0 SAct", "ata"),
    ("NETDEV WATCHDOG: eth0 (e1000e): transmit queue 0 timed out", "netdev_watchdog"),
])  # fmt: skip
def test_kernel_log_has_events_that_only_who_names_them_gets(
    log: Log, line: str, event: EventName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They repeat, and nothing has crashed."""
    monkeypatch.setattr(kernel_log, "HOLD_S", 0.0)
    for events, expected in ((DEFAULT, []), ((event,), [event])):
        watch = log.watch(events)
        log.say(line)
        assert [marker.attributes["event"] for marker in (*read(watch), *told(watch.poll()))] == expected
        watch.close()


@pytest.mark.parametrize(
    ("group", "unit"),
    [
        ("/system.slice/my\\x5cx2dengine.service", "my\\x2dengine.service"),
        ("/system.slice/engine.service/worker.service", "engine.service"),  # whatever it names its own
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/sshd.service", None),
        ("/docker/0123", None),
    ],
)
def test_kernel_log_knows_the_unit_of_a_process_that_was_killed_for_memory(
    log: Log, group: str, unit: str | None
) -> None:
    """The process is gone when its line is read: the cgroup in the line before names the unit, and so its journal."""
    watch = log.watch()
    log.say(
        f"oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/a,task_memcg={group}"
        ",task=engine,pid=4000077,uid=0",
        "Memory cgroup out of memory: Killed process 4000077 (engine) total-vm:1kB, anon-rss:1kB, file-rss:0kB, "
        "shmem-rss:0kB, UID:0 pgtables:1kB oom_score_adj:0",
    )
    (marker,) = read(watch)
    assert (marker.unit, marker.attributes.get(SYSTEM_UNIT)) == (unit, unit)
    assert OOM_CGROUP in marker.attributes
