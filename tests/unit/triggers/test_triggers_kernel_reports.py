"""Which process a report of several lines is about: the lines of many kernels, mixed with those of others."""

from __future__ import annotations

import pytest

from collector.host.kmsg import KmsgRecord
from collector.triggers.kernel_catalogue import EVENTS, EventName
from collector.triggers.kernel_lines import LinePatterns, context_of, oom_summary_of
from collector.triggers.kernel_reports import HOLD_LINES, HOLD_S, MAX_REPORTS, OpenReports, Reported

ALL = tuple(EVENTS)
SHIPPED: tuple[EventName, ...] = ("oom_kill", "core_lost", "oops")
CPU = "CPU: 3 PID: 41 Comm: engine Not tainted 6.1.0 #1"
CUT = "------------[ cut here ]------------"
KERNEL_BUG = "kernel BUG at lib/list_debug.c:56!"
DIES = "Oops: invalid opcode: 0000 [#1] PREEMPT SMP NOPTI"
NULL = "BUG: kernel NULL pointer dereference, address: 0000000000000000"
MODULES = "Modules linked in: xfs ext4"


def lines(*said: str, seq: int = 1, caller: str = "", step_s: float = 0.001) -> list[KmsgRecord]:
    """Records of the kernel, *step_s* apart; "T41 | text" is by another caller than *caller*."""
    records = []
    for number, text in enumerate(said):
        who, _, rest = text.rpartition(" | ")
        records.append(KmsgRecord(
            seq=seq + number, time_s=100 + number * step_s, facility="kern", level="alert", message=rest or text,
            caller=who or caller,
        ))  # fmt: skip
    return records


def reported(records: list[KmsgRecord], events: tuple[EventName, ...] = ALL) -> list[Reported]:
    """All that is reported, what still waits at the end included."""
    patterns, reports = LinePatterns(events, ()), OpenReports()
    told = [one for record in records for one in reports.take(record, patterns.find(record.message))]
    return told + list(reports.give_up())


def said(told: list[Reported]) -> list[tuple[str, int | None, str | None]]:
    return [(one.event.event, one.event.pid, one.event.comm) for one in told]


ENGINE = (41, "engine")


@pytest.mark.parametrize("caller", ["", "T41"])
@pytest.mark.parametrize(("report", "event"), [
    pytest.param((NULL, "#PF: supervisor read access in kernel mode", "PGD 0 P4D 0 ", "Oops: 0000 [#1] SMP NOPTI"),
                 "oops", id="x86"),
    pytest.param(("divide error: 0000 [#1] PREEMPT SMP NOPTI",), "oops", id="x86 before 6.3"),
    pytest.param((CUT, KERNEL_BUG, DIES), "bug", id="x86 BUG()"),
    pytest.param(("list_del corruption. prev->next should be 1, but was 2", CUT, KERNEL_BUG, DIES),
                 "list_corruption", id="list that kills"),
    pytest.param((CUT, "list_del corruption, 1->next is NULL", "WARNING: CPU: 3 PID: 41 at lib/list_debug.c:49 f+0/2"),
                 "list_corruption", id="list that warns"),
    pytest.param((CUT, "WARNING: CPU: 3 PID: 41 at mm/slub.c:300 f+0x1/0x2"), "warning", id="warning"),
    pytest.param((CUT, "UBSAN: shift-out-of-bounds in a.c:1:2", "shift exponent 64 is too large"), "ubsan", id="ubsan"),
    pytest.param(("BUG: KASAN: use-after-free in f+0x1/0x2", "Read of size 8 at addr 1 by task engine/41", ""),
                 "bug", id="kasan"),
    pytest.param(("BUG: Bad page state in process engine  pfn:12345", "flags: 0x1"), "bug", id="page"),
    pytest.param(("Unable to handle kernel paging request at virtual address dead", "Mem abort info:", "  ESR = 0x1",
                  "  EC = 0x25", "  SET = 0", "  EA = 0", "  FSC = 0x5", "Data abort info:", "  ISV = 0", "  CM = 0",
                  "[dead] address between user and kernel address ranges",
                  "Internal error: Oops: 0000000096000004 [#1] PREEMPT SMP"), "oops", id="arm64"),
    pytest.param(("8<--- cut here ---", "Unable to handle kernel NULL pointer dereference at virtual address 00000000",
                  "Internal error: Oops: 17 [#1] SMP ARM"), "oops", id="arm32"),
    pytest.param(("BUG: Kernel NULL pointer dereference on read at 0x00000000", "Faulting instruction address: 0xc0",
                  "Oops: Kernel access of bad area, sig: 11 [#1]", "LE PAGE_SIZE=64K MMU=Hash SMP NR_CPUS=2048 NUMA"),
                 "oops", id="ppc64"),
    pytest.param(("Unable to handle kernel paging request at virtual address 0000", "Oops [#1]"), "oops", id="riscv"),
    pytest.param(("Unable to handle kernel pointer dereference in virtual kernel address space", "Failing address: 0",
                  "Oops: 0004 ilc:2 [#1] SMP "), "oops", id="s390"),
    pytest.param(("User process fault: interruption code 003b ilc:2 in engine[1000000+1000]", "Failing address: 0",
                  "Fault in primary space mode while using user ASCE."), "segfault", id="s390 user"),
    pytest.param(("engine: unhandled page fault (11) at 0x00000000, code 0x805", "pgd = 1"), "segfault",
                 id="arm32 user"),
    pytest.param(("engine: engine: potentially unexpected fatal signal 11.",), "segfault", id="fatal signal"),
    pytest.param(("watchdog: Watchdog detected hard LOCKUP on cpu 3",), "hard_lockup", id="lockup"),
])  # fmt: skip
def test_open_reports_name_the_process_of_a_later_line(report: tuple[str, ...], event: str, caller: str) -> None:
    """One event for each report, with the first line that says what happened and the process of a later one."""
    told = reported(lines(*report, MODULES, CPU, "Call Trace:", caller=caller))
    assert said(told) == [(event, *ENGINE)]
    assert told[0].named_by == CPU
    assert told[0].record.message in report


@pytest.mark.parametrize("caller", ["", "C3"])
def test_open_reports_name_the_process_when_only_its_last_line_is_chosen(caller: str) -> None:
    """As shipped: a BUG() of the kernel is its oops."""
    assert said(reported(lines(CUT, KERNEL_BUG, DIES, MODULES, CPU, caller=caller), SHIPPED)) == [("oops", *ENGINE)]


def test_open_reports_tell_callers_apart() -> None:
    """Two threads oops at once, and each report names its own."""
    told = reported(lines(
        f"T41 | {NULL}", f"T42 | {NULL}", "T42 | Oops: 0000 [#2] SMP", "T41 | Oops: 0000 [#1] SMP",
        "T42 | CPU: 2 PID: 42 Comm: other Not tainted 6.1.0 #1", "C1 | x invoked oom-killer: gfp_mask=1",
        "C1 | CPU: 1 PID: 43 Comm: x Not tainted 6.1.0 #1", f"T41 | {CPU}",
    ))  # fmt: skip
    assert sorted(said(told)) == [("oops", 41, "engine"), ("oops", 42, "other")]
    assert {one.event.pid: one.record.caller for one in told} == {41: "T41", 42: "T42"}


@pytest.mark.parametrize("other", [
    (NULL,), (CUT,), ("WARNING: CPU: 1 PID: 43 at f+0x1/0x2",), ("NMI backtrace for cpu 1",),
    ("x invoked oom-killer: gfp_mask=0xcc0",), ("x: page allocation failure: order:4",), ("rcu: INFO: a detected",),
    (15 * r"\x0a" + " invoked oom-killer: gfp_mask=0xcc0",), (r"\\\\: page allocation failure: order:4",),
    ("watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [x:43]",), ("BUG: scheduling while atomic: x/43/0x00000002",),
])  # fmt: skip
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("events", [ALL, SHIPPED], ids=["all", "shipped"])
def test_open_reports_name_nobody_when_lines_are_mixed(
    other: tuple[str, ...], events: tuple[EventName, ...], *, first: bool
) -> None:
    """Without callers, the line may belong to what began before or within the report: it has two readings."""
    fault = "Unable to handle kernel paging request at virtual address 0000"
    mixed = (*other, fault) if first else (fault, *other)
    told = reported(lines(*mixed, "CPU: 1 PID: 43 Comm: x Not tainted 6.1.0 #1", CPU), events)
    oopses = [one.event for one in told if one.record.message == fault]
    assert [event.pid for event in oopses] == [None]


def test_open_reports_say_why_they_name_nobody() -> None:
    told = reported(lines(NULL, "x invoked oom-killer: gfp_mask=0xcc0", CPU))
    assert [(one.event.pid, one.event.unclear) for one in told] == [
        (None, "the lines of several reports are mixed"),
    ]


@pytest.mark.parametrize("caller", ["", "C3"])
def test_open_reports_take_no_line_from_before(caller: str) -> None:
    """The process of a warning is not that of the oops behind it."""
    told = reported(lines(CUT, "WARNING: CPU: 3 PID: 41 at f+0x1/0x2", CPU, NULL, MODULES, caller=caller))
    assert said(told) == [("warning", *ENGINE), ("oops", None, None)]


@pytest.mark.parametrize("context", [
    "CPU: 3 PID: 42 Comm: engine Not tainted 6.1.0 #1", "CPU: 2 PID: 41 Comm: engine Not tainted 6.1.0 #1",
])  # fmt: skip
def test_open_reports_take_no_line_that_contradicts(context: str) -> None:
    """A warning has the number of its thread and its CPU already."""
    assert said(reported(lines("WARNING: CPU: 3 PID: 41 at f+0x1/0x2", context))) == [("warning", 41, None)]


def test_open_reports_find_a_lockup_by_its_cpu() -> None:
    """One CPU notices it, and the other writes the dump."""
    told = reported(lines(
        "C1 | watchdog: Watchdog detected hard LOCKUP on cpu 3", "C1 | CPU: 1 PID: 42 Comm: other Not tainted 6.1.0 #1",
        "C3 | NMI backtrace for cpu 3", f"C3 | {CPU}",
    ))  # fmt: skip
    assert said(told) == [("hard_lockup", *ENGINE)]


@pytest.mark.parametrize(("stall", "pid"), [
    ("rcu: INFO: rcu_preempt self-detected stall on CPU", 41),
    ("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", None),
])  # fmt: skip
def test_open_reports_name_whom_a_cpu_finds_on_itself(stall: str, pid: int | None) -> None:
    """Whoever notices that another CPU is stalled has nothing to do with it."""
    told = reported(lines(stall, "rcu: \t3-....: (5249 ticks this GP)", CPU, caller="C3"))
    assert [(one.event.event, one.event.pid) for one in told] == [("rcu_stall", pid)]


@pytest.mark.parametrize(("lockup", "engine"), [
    ("smp: csd: Detected non-responsive CSD lock (#1) on CPU#1, waiting 5000000000 ns for CPU#03 f+0x0/0x1(0).", True),
    ("watchdog: CPU 3 Hard LOCKUP", True),
    ("watchdog: CPU 3 self-detected hard LOCKUP @ f+0x1/0x2", True),
    ("watchdog: CPU 1 detected hard LOCKUP on other CPUs 3", False),
])  # fmt: skip
@pytest.mark.parametrize("caller", ["", "C1"])
def test_open_reports_do_not_blame_who_waits_for_another_cpu(lockup: str, caller: str, *, engine: bool) -> None:
    """Its own dump follows, too."""
    other = "CPU: 1 PID: 43 Comm: x Not tainted 6.1.0 #1"
    assert said(reported(lines(lockup, other, caller=caller))) == [("hard_lockup", None, None)]
    named = [("hard_lockup", *(ENGINE if engine else (None, None)))]
    assert said(reported(lines(lockup, other, "C3 | NMI backtrace for cpu 3", f"C3 | {CPU}", caller="C1"))) == named


@pytest.mark.parametrize("rcu", ["", "rcu: "])
def test_open_reports_find_a_stall_by_its_cpu(rcu: str) -> None:
    """Lines of the stall itself begin no other report; dumps of other CPUs, which it waits for too, may come first."""
    told = reported(lines(
        f"{rcu}INFO: rcu_sched self-detected stall on CPU", f"{rcu}\\x093-....: (5249 ticks this GP) idle=1ba/1/0x40",
        f"{rcu}\\x09(t=5250 jiffies g=1 q=5 ncpus=4)", f"{rcu}rcu_sched kthread starved for 5250 jiffies! g1 f0x0",
        "NMI backtrace for cpu 1", "CPU: 1 PID: 43 Comm: x Not tainted 6.1.0 #1", "NMI backtrace for cpu 3", CPU,
    ))  # fmt: skip
    assert said(told) == [("rcu_stall", *ENGINE)]


def test_open_reports_name_no_idle_task() -> None:
    """PID 0 is not a process."""
    told = reported(lines(
        NULL, "CPU: 0 PID: 0 Comm: swapper/0 Not tainted 6.1.0 #1", "WARNING: CPU: 1 PID: 0 at f+0x1/0x2",
        "CPU: 1 PID: 0 Comm: swapper/1 Not tainted 6.1.0 #1",
    ))  # fmt: skip
    assert said(told) == [("oops", None, "swapper/0"), ("warning", None, "swapper/1")]


def test_open_reports_give_up_after_many_lines_or_a_second() -> None:
    """What comes then belongs to something else; the event is reported without a process."""
    for records in (
        lines(NULL, *(["RAX: 0000"] * (HOLD_LINES + 1)), CPU),
        lines(NULL, CPU, step_s=HOLD_S + 0.1),
    ):  # fmt: skip
        assert said(reported(records)) == [("oops", None, None)]


def test_open_reports_are_bounded_in_a_storm() -> None:
    """However many threads oops, a few wait, and none is lost."""
    reports, patterns, told = OpenReports(), LinePatterns(ALL, ()), 0
    for record in lines(*(f"T{thread} | {NULL}" for thread in range(1000)), step_s=0):
        told += len(list(reports.take(record, patterns.find(record.message))))
    assert told == 1000 - MAX_REPORTS
    assert reports.oldest_seq == 1001 - MAX_REPORTS
    assert len(list(reports.give_up())) == MAX_REPORTS
    assert reports.oldest_seq is None


NAMES = (
    "", "PID: 1 Comm: b", "b Not tainted", "b Tainted: ", "b Kdump: loaded", "CPU: 1 PID: 1", "Oops: b", ",pid=1,uid=0",
    ",task_memcg=/x,", "task=b,pid=1", "\u00e9", "\\\\", "\\x0a",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("uid", ["", "UID: 1000 "])
@pytest.mark.parametrize("rest", ["Not tainted 4.18.0", "Tainted: G      D W    6.1", "Kdump: loaded Not tainted 5.4"])
def test_context_is_read_whatever_the_name(name: str, uid: str, rest: str) -> None:
    """Since 6.12 with the effective UID, which is not taken over. A name with two readings is none."""
    found = context_of(f"CPU: 3 {uid}PID: 41 Comm: {name} {rest} #1")
    assert found is not None
    kdump = rest.startswith("Kdump"), name == "b Kdump: loaded"
    either = kdump == (False, True) or (kdump == (True, False) and name in {"", "\\\\", "\\x0a"})
    assert (found.pid, found.comm, found.cpu) == (41, None if either else name, 3)


KILLED = "total-vm:1kB, anon-rss:1kB, file-rss:0kB, shmem-rss:0kB, UID:1000 pgtables:1kB oom_score_adj:0"
SUMMARY = "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=c,mems_allowed=0,oom_memcg=/a,task_memcg=/a/b"


def test_open_reports_give_an_oom_kill_its_control_group() -> None:
    """As attributes, if the line right before is about the same process."""
    where = {"oom_constraint": "CONSTRAINT_MEMCG", "oom_memcg": "/a", "oom_task_memcg": "/a/b"}
    for pid, facts in ((41, where), (42, {})):
        (told,) = reported(lines(
            f"{SUMMARY},task=engine,pid={pid},uid=1000",
            f"Memory cgroup out of memory: Killed process 41 (engine) {KILLED}",
        ))  # fmt: skip
        assert (told.event.pid, dict(told.event.facts)) == (41, facts)


@pytest.mark.parametrize("line", [
    f"{SUMMARY},task_memcg=/c,task=engine,pid=41,uid=0", f"{SUMMARY},oom_memcg=/c,task=engine,pid=41,uid=0",
    f"{SUMMARY},task=engine,pid=41", f"{SUMMARY},task=y,pid=41,uid=0,task=y,pid=41,uid=0",
    f"{SUMMARY},task=,pid=41,uid=0,pid=43,uid=0", f"prefix {SUMMARY},task=engine,pid=41,uid=0",
    f"{SUMMARY},task=,task=engine,pid=41,uid=0", f"{SUMMARY},task={'x' * 16},pid=41,uid=0",
])  # fmt: skip
def test_oom_summary_is_not_read_when_a_control_group_has_a_name_that_lies(line: str) -> None:
    """Users name their own control groups."""
    assert oom_summary_of(line) is None
