"""The kernel's messages, in the wording of several versions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from collector.triggers.kernel_catalogue import EVENTS
from collector.triggers.kernel_lines import KernelEvent, LinePatterns

ALL = LinePatterns(tuple(EVENTS), ())
ROWS = [
    row.split("\t")
    for row in (Path(__file__).parent / "kernel_lines.tsv").read_text(encoding="utf-8").splitlines()
    if not row.startswith("#")
]
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


@pytest.mark.parametrize("row", ROWS, ids=[f"{row[0]}: {row[1][:40]}" for row in ROWS])
def test_line_patterns_know_the_lines_of_many_kernels(row: list[str]) -> None:
    """4.x to 6.18, several architectures; "-" means none, "|" separates acceptable events."""
    _, line, event, *process = row
    found = ALL.find(line)
    said = (found.pid, found.comm, found.uid) if found else (None, None, None)
    assert (found.event if found else "-") in event.split("|")
    assert ["-" if value is None else str(value) for value in said] == process


NAMES = [
    "", "b[1] trap ", "b[1]: segfault ", "b[1]: unhandled", "b[1] general pr", "b[1] overflowed", "b[1] bad frame ",
    "b:1 blocked for", "b:1 is blocked ", "b/1/0x00000002", "b:1] [", "b) UID:0 (c", ") total-vm:9kB,",
    "Pid 1(b) over c", "coredump: 1(b)", "b): over core_p", "b): Core dump", "traps: b", "signal: b", "INFO: task b:1",
    "Oops: b", "BUG: b", "b:1 due to hard", "Killed process ", "b: 0000 [#1] ", "[1]", "(1)",
    "\\\\[1] trap ", "\\x0a[1] trap ", "\u00e9[1] trap ",
    "Oops [#1]", "Oops[#1]:", "BUG: b", "UBSAN: b", "b: attempt to a", "WARNING: CPU: ", "EDAC b 1 CE ",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("line", "event"), [
    ("{}[42]: " + SEGFAULT, "segfault"),
    ("traps: {}[42] trap divide error ip:7f sp:7f error:0 in engine[40+1]", "segfault"),
    ("traps: {}[42] general protection fault ip:7f sp:7f error:0 in engine[40+1]", "segfault"),
    ("{}[42] bad frame in rt_sigreturn frame:0 ip:7f sp:7f orax:ff in engine[40+1]", "segfault"),
    ("signal: {}[42] overflowed sigaltstack", "segfault"),
    ("{}[42]: unhandled exception: DABT (lower EL), ESR 0x92000006, level 2 translation fault in e[4+1]", "segfault"),
    ("{}[42]: unhandled level 2 translation fault (11) at 0x0000, esr 0x92000006, in engine[40+1]", "segfault"),
    ("{}[42]: unhandled signal 11 code 0x1 at 0x0000000000000000 in engine[40+1]", "segfault"),
    ("INFO: task {}:42 blocked for more than 120 seconds.", "hung_task"),
    ("INFO: task {}:42 is blocked on a mutex likely owned by task b:1.", "hung_task"),
    ("watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [{}:42]", "soft_lockup"),
    ("BUG: scheduling while atomic: {}/42/0x00000002", "bug"),
    ("Pid 42({}) over core_pipe_limit", "core_lost"),
    ("Process 42({}) has RLIMIT_CORE set to 1", "core_lost"),
    ("coredump: 42({}): over core_pipe_limit, skipping core dump", "core_lost"),
    ("coredump: 42({}): Core dump to |/usr/bin/h 1): over core_pipe_limit disabled", "core_lost"),
    ("Out of memory: Killed process 42 ({}) total-vm:1kB, anon-rss:1kB, file-rss:0kB, shmem-rss:0kB", "oom_kill"),
    ("Memory failure: 0x1: Sending SIGBUS to {}:42 due to hardware memory corruption", "machine_check"),
    ("umip: {}[42] ip:7f sp:7f: segfault in emulation. error6", "segfault"),
    ("{}[42] umip emulation segfault ip:7f sp:7f error:6 in 7f", "segfault"),
    ("{}[42]: bad frame in __arm64_sys_rt_sigreturn: pc=7f sp=7f", "segfault"),
    ("Kernel stack overflow in process {}[42], r1=c0", "oops"),
    ("BUG: spinlock bad magic on CPU#0, {}/42", "bug"),
    ("WARNING: mm/slub.c:300 at f+0x1/0x2, CPU#3: {}/42", "warning"),
])  # fmt: skip
def test_line_patterns_never_take_the_pid_from_a_name(line: str, event: str, name: str) -> None:
    """A name of up to 15 bytes, whatever it looks like, is the name and nothing else."""
    found = ALL.find(line.format(name))
    assert found is not None
    assert (found.event, found.pid, found.comm) == (event, 42, name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rest", [
    " invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0", " (42): drop_caches: 3",
    ": page allocation failure: order:4, mode:0x40dc0(GFP_KERNEL), nodemask=(null)",
    " (42) used greatest stack depth: 11736 bytes left",
])  # fmt: skip
def test_line_patterns_find_no_event_in_a_name(name: str, rest: str) -> None:
    """Of a line that begins with it and is no event itself: users choose names, and can make the kernel say these."""
    assert ALL.find(name + rest) is None


@pytest.mark.parametrize("rest", [
    "[42]: code: 00000000", "[42] uses obsolete (PF_INET,SOCK_PACKET)", "[42] trap", "[42]: segfault at the gates",
    "[42]: unhandled", " (42): undefined instruction", "[42] vsyscall attempted",
])  # fmt: skip
def test_line_patterns_ignore_half_a_format(rest: str) -> None:
    """A line is one of the kernel's when it is so to the end, and a name is at most 15 bytes."""
    assert ALL.find(f"engine{rest}") is None
    assert ALL.find(f"{'x' * 16}[42]: {SEGFAULT}") is None
    assert ALL.find(f"{chr(233) * 8}[42]: {SEGFAULT}") is None


def test_line_patterns_know_a_process_line_of_an_event_not_chosen() -> None:
    """Else a process called "Oops: b" would be an oops."""
    patterns = LinePatterns(("oops", "bug"), ("sigaltstack",))
    assert patterns.find("Oops: b[42] overflowed sigaltstack") == KernelEvent("pattern")
    assert patterns.find(f"BUG: b[42]: {SEGFAULT}") is None


@pytest.mark.parametrize(("line", "pid"), [
    ("mydriver: process b[42] reset", 42),
    ("mydriver: process b[1] reset[42] reset", None),
    ("mydriver: process b[42] reset[42] reset", 42),
])  # fmt: skip
@pytest.mark.parametrize("name", [".+", ".+?"])
def test_line_patterns_name_nobody_when_a_line_has_two_readings(name: str, line: str, pid: int | None) -> None:
    """Which of them is the name cannot be known; the marker says why it has no process."""
    found = LinePatterns((), (rf"process (?P<comm>{name})\[(?P<pid>\d+)\] reset",)).find(line)
    assert found is not None
    assert (found.pid, bool(found.unclear)) == (pid, pid is None)
    assert found.unclear is None or sorted(re.findall("PID [0-9]+", found.unclear)) == ["PID 1", "PID 42"]
