"""How an incident ended, in the few words of its head, and why."""

from __future__ import annotations

import pytest

from collector.model.marker import Marker, MarkerKind, ProcessRef
from collector.report.cause import cause_of
from collector.report.core_facts import CoreFacts, CoreSignalFacts
from collector.report.story import Cause


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
