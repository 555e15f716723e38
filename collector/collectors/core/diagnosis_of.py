"""The diagnosis of a crash, by its core or by what the kernel logged of it."""

from __future__ import annotations

from collector.collectors.core.abort_message import abort_message
from collector.collectors.core.cpp_exception import cpp_exception
from collector.collectors.core.diagnosis import Diagnosis, DiagnosisKind
from collector.collectors.core.diagnosis_bus import bus
from collector.collectors.core.diagnosis_facts import CrashFacts
from collector.collectors.core.diagnosis_line import kernel_line
from collector.collectors.core.diagnosis_segv import segv
from collector.collectors.core.diagnosis_signals import other_signal, sent_signal
from collector.collectors.core.signal_frame import earlier_fault
from collector.model.marker import Marker
from collector.model.redaction import Redaction
from collector.model.text import escape


def diagnose(facts: CrashFacts, redaction: Redaction) -> Diagnosis | None:
    """Return what a crash was; ``None`` if the facts do not allow to say."""
    name = facts.signal.name
    why = _why_aborted(facts, redaction) if name == "SIGABRT" else ""
    sent = sent_signal(facts, why)
    if sent is None:
        return _aborted_as_init(facts, redaction) or _raised(facts)
    by_itself = sent.kind in {DiagnosisKind.SENT, DiagnosisKind.ABORT} and facts.signal.sender_pid == facts.pid
    earlier = earlier_fault(facts) if by_itself and not why else None
    found = None if earlier is None else _raised(earlier)
    if earlier is None or found is None:
        return sent
    again = " again" if earlier.signal.name == name else ""
    return found._replace(text=f"{found.text}; its handler then sent {name}{again}")


def _why_aborted(facts: CrashFacts, redaction: Redaction) -> str:
    """Return the C library's reason, or the C++ exception, as the end of a sentence."""
    if message := abort_message(facts.image):
        return ": " + escape(redaction.text(message))
    exception = cpp_exception(facts)
    if exception is None:
        return ""
    name, text = exception
    shown = f" with the C++ exception {name}" if name else " with a C++ exception"
    return shown + (": " + escape(redaction.text(text)) if text else "")


def _aborted_as_init(facts: CrashFacts, redaction: Redaction) -> Diagnosis | None:
    """
    Return why the first process of a PID namespace aborted; ``None`` if it did not.

    SIGABRT does not kill a container's first process; abort() then executes an instruction that it may not.
    """
    if facts.pid != 1 or facts.signal.name != "SIGSEGV" or facts.signal.code_name != "SI_KERNEL":
        return None
    why = _why_aborted(facts, redaction)
    text = f"aborted{why}{facts.in_thread}; as process 1 of its PID namespace it died of the instruction in abort()"
    return Diagnosis(DiagnosisKind.ABORT, text) if why else None


def _raised(facts: CrashFacts) -> Diagnosis | None:
    """Return what a signal was that the kernel raised."""
    if facts.signal.name == "SIGSEGV":
        return segv(facts)
    return bus(facts) if facts.signal.name == "SIGBUS" else other_signal(facts)


def with_line(found: Diagnosis | None, marker: Marker) -> Diagnosis | None:
    """Return what the kernel logged of the crash, if its core tells nothing, or not even an address."""
    if found is None or found.kind is DiagnosisKind.NO_ADDRESS:
        return kernel_line(marker) or found
    return found
