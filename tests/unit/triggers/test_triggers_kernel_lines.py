"""The kernel's messages, in the wording of several versions."""

from __future__ import annotations

import pytest

from collector.triggers.kernel_lines import EVENTS, LinePatterns

ALL = LinePatterns(tuple(EVENTS), ())
SEGFAULT = "segfault at 0 ip 00007f sp 00007f error 4 in libc.so.6[7f+1]"
OOM = "Killed process 42 (java) total-vm:1kB, anon-rss:1kB, file-rss:0kB, shmem-rss:0kB, UID:1000 pgtables:1kB"


@pytest.mark.parametrize(
    ("line", "event", "pid", "comm"),
    [
        (f"engine[42]: {SEGFAULT}", "segfault", 42, "engine"),
        ("coredump: 42(engine): over core_pipe_limit, skipping core dump", "core_lost", 42, "engine"),
        ("Pid 42(engine) over core_pipe_limit", "core_lost", 42, "engine"),
        ("coredump: 42(engine): |/usr/lib/handler pipe failed", "core_lost", 42, "engine"),
        (f"a b] [x[42]: {SEGFAULT}", "segfault", 42, "a b] [x"),
        ("traps: engine[42] general protection fault ip:7f sp:7f error:0 in engine[40+1]", "segfault", 42, "engine"),
        ("traps: engine[42] trap invalid opcode ip:7f sp:7f error:0 in engine[40+1]", "segfault", 42, "engine"),
        ("engine[42]: unhandled exception: DABT (lower EL), ESR 0x92", "segfault", 42, "engine"),
        (f"Out of memory: {OOM}", "oom_kill", 42, "java"),
        (f"Memory cgroup out of memory: {OOM}", "oom_kill", 42, "java"),
        ("INFO: task jbd2/sda1-8:42 blocked for more than 120 seconds.", "hung_task", 42, "jbd2/sda1-8"),
        ("watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [kworker/1:1:42]", "soft_lockup", 42, "kworker/1:1"),
        ("watchdog: CPU3: Watchdog detected hard LOCKUP on cpu 3", "hard_lockup", None, None),
        ("rcu: INFO: rcu_preempt self-detected stall on CPU", "rcu_stall", None, None),
        ("BUG: unable to handle page fault for address: ffff", "oops", None, None),
        ("Oops: general protection fault, probably for non-canonical address 0x1: 0000 [#1] SMP", "oops", None, None),
        ("kernel BUG at mm/slub.c:4000!", "bug", None, None),
        ("mce: [Hardware Error]: Machine check events logged", "machine_check", None, None),
        ("I/O error, dev sda, sector 1 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2", "io_error", None, None),
        ("EXT4-fs error (device sda1): ext4_lookup:1000: inode #2: comm ls: bad entry", "io_error", None, None),
    ],
)  # fmt: skip
def test_line_patterns_find_the_event(line: str, event: str, pid: int | None, comm: str | None) -> None:
    """One line of each kind."""
    found = ALL.find(line)
    assert found is not None
    assert (found.event, found.pid, found.comm) == (event, pid, comm)


@pytest.mark.parametrize("line", ["usb 1-1: new device", "EXT4-fs (vda): mounted filesystem", "audit: type=1701", ""])
def test_line_patterns_ignore_other_messages(line: str) -> None:
    """The messages of an ordinary boot open no incident."""
    assert ALL.find(line) is None


def test_line_patterns_are_not_misled_by_a_process_name() -> None:
    """Whatever a process is called, its segfault is not an oops, and its name has no PID."""
    found = ALL.find(f"Oops: x[1]: y[42]: {SEGFAULT}")
    assert found is not None
    assert (found.event, found.pid) == ("segfault", 42)


def test_line_patterns_find_the_uid_of_an_oom_kill() -> None:
    """The budget depends on it."""
    found = ALL.find(f"Out of memory: {OOM}")
    assert found is not None
    assert found.uid == 1000
