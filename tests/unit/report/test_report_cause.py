"""How an incident ended, in the few words of its head, and why."""

from __future__ import annotations

import pytest

from collector.model.marker import Marker, MarkerKind, ProcessRef
from collector.report.cause import cause_of
from collector.report.core_facts import CoreFacts, CoreSignalFacts
from collector.report.story import Cause, LogLine
from collector.report.text import utc


def cause(core: CoreFacts | None = None, **facts: object) -> Cause:
    known: dict[str, object] = {"kind": MarkerKind.NOTIFICATION, "trigger": "told", "at_s": 1.0, "reason": "told"}
    marker = Marker(process=ProcessRef(pid=41), **known | facts)  # type: ignore[arg-type]
    return cause_of((marker,), core or CoreFacts(), (), ())


@pytest.mark.parametrize("prefix", ["", "MONITOR_"])
@pytest.mark.parametrize(
    ("signal", "result", "said"),
    [
        (6, "watchdog", "SIGABRT (watchdog: it did not report in time)"),
        (9, "timeout", "SIGKILL (timeout: systemd ended it)"),
        (9, "oom-kill", "SIGKILL (killed for memory by the kernel)"),
        (11, "core-dump", "SIGSEGV"),
        (None, "start-limit-hit", "started too often"),
    ],
)
def test_head_says_why_systemd_sent_the_signal(prefix: str, signal: int | None, result: str, said: str) -> None:
    """That a service was aborted is not why: its watchdog was."""
    assert cause(signal=signal, attributes={f"{prefix}SERVICE_RESULT": result}).said == said


def test_head_has_the_watchdog_rather_than_the_abort_of_the_core() -> None:
    core = CoreFacts(signal=CoreSignalFacts(name="SIGABRT"), diagnosis_kind="abort", diagnosis="sent by process 1")
    found = cause(core, signal=6, attributes={"SERVICE_RESULT": "watchdog"})
    assert found.said == "SIGABRT (watchdog: it did not report in time)"
    assert found.diagnosis == "sent by process 1"


@pytest.mark.parametrize(("facts", "said"), [({"exit_status": 3}, "exit status 3"), ({"signal": 15}, "SIGTERM")])
def test_diagnosis_is_the_reason_that_was_reported(facts: dict[str, object], said: str) -> None:
    """Whoever reports a status and a reason knows more than the status says."""
    found = cause(reason="lost its price feed", attributes={"REASON": "lost its price feed"}, **facts)
    assert (found.said, found.diagnosis) == (said, "lost its price feed")


def test_reason_is_not_said_twice() -> None:
    found = cause(reason="lost its price feed", attributes={"REASON": "lost its price feed"})
    assert (found.said, found.diagnosis) == ("lost its price feed", "")


def test_reason_does_not_replace_what_the_core_says() -> None:
    found = cause(CoreFacts(diagnosis="access at 0x0"), signal=11, attributes={"REASON": "engine failed"})
    assert found.diagnosis == "access at 0x0"


SEGFAULT = "engine[{}]: segfault at 0 ip 000055ac4e13d1e9 sp 00007ffce40e5868 error 4 in engine[55ac4e13d000+1000]"


@pytest.mark.parametrize(
    ("line", "signal", "after_s", "said"),
    [
        (SEGFAULT.format(41), 11, 0.0, "SIGSEGV (null pointer)"),
        (SEGFAULT.format(43), 11, 0.0, "SIGSEGV (null pointer)"),  # of another thread, which crashed
        (SEGFAULT.format(42), 11, 0.0, "SIGSEGV"),
        (SEGFAULT.format(41), 11, 60.0, "SIGSEGV"),  # of who had the number before
        (SEGFAULT.format(41), 6, 0.0, "SIGABRT"),
        ("traps: [41] trap int3[7] trap divide error ip:1 sp:2 error:0 in a[1+1]", 8, 0.0, "SIGFPE"),  # 7's name
        ("traps: engine[41] trap divide error ip:1 sp:2 error:0 in a[1+1]", 8, 0.0, "SIGFPE (division by zero)"),
    ],
)
def test_head_has_the_fault_of_the_kernels_line_where_there_is_no_core(
    line: str, signal: int, after_s: float, said: str
) -> None:
    """Services leave no core unless their units say so: the line is all that tells."""
    marker = Marker(
        kind=MarkerKind.EXIT, trigger="deaths", at_s=100.0 + after_s, reason="died", process=ProcessRef(pid=41),
        thread=43, signal=signal,
    )  # fmt: skip
    logged = LogLine(at=utc(100.0), text=line, who="kernel", matters=True)
    found = cause_of((marker,), CoreFacts(), (logged,), ())
    assert found.said == said
    assert bool(found.diagnosis) == ("(" in said)
