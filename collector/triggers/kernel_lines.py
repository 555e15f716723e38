"""What a line of the kernel's log reports, and about which process."""

from __future__ import annotations

import re
from typing import NamedTuple

from collector.model.text import escape, parse_number
from collector.triggers.kernel_catalogue import COMM, EVENTS, NO_EVENT, EventName

_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|\\)")


# lib/dump_stack.c, dump_stack_print_info(). The UID, since 6.12, is the effective one and so is not who pays.
_CONTEXT = re.compile(
    rf"CPU: (?P<cpu>[0-9]+) (?:UID: [0-9]+ )?PID: (?P<pid>[0-9]{{1,10}}) Comm: {COMM} "
    r"(?P<kdump>Kdump: loaded )?(?:Not tainted|Tainted: )",
    re.DOTALL,
)
OOM_TASK_MEMCG = "oom_task_memcg"
"""The fact of an OOM kill that tells the control group of the process."""

# mm/oom_kill.c, dump_oom_summary(), since 5.0.
_OOM = re.compile(
    r"oom-kill:constraint=(?P<oom_constraint>[A-Z_]+),.*?,(?:global_oom|oom_memcg=(?P<oom_memcg>.+)),"
    rf"task_memcg=(?P<{OOM_TASK_MEMCG}>/.*),task={COMM},pid=(?P<pid>[0-9]{{1,10}}),uid=[0-9]+\Z",
    re.DOTALL,
)


class KernelEvent(NamedTuple):
    """
    What a line reports, and about which process; *unclear* is why it names none.

    *cpu* is the one that it is about; *facts* are attributes of the marker: ``fault_address``, ``fault_ip`` (``0x…``),
    ``fault_error`` (decimal), ``fault_module``.
    """

    event: str
    pid: int | None = None
    comm: str | None = None
    uid: int | None = None
    unclear: str | None = None
    cpu: int | None = None
    facts: tuple[tuple[str, str], ...] = ()


class ProcessLine(NamedTuple):
    """The process that a line names which is no event itself, and what else it says, as attributes."""

    pid: int
    comm: str | None
    cpu: int | None = None
    facts: tuple[tuple[str, str], ...] = ()


class LinePatterns:
    """The patterns of some events and the user's own, compiled; `ValueError` if one is not a regular expression."""

    def __init__(self, events: tuple[EventName, ...], patterns: tuple[str, ...]) -> None:
        self._chosen = frozenset(events)
        known = [(event, line) for event, lines in EVENTS.items() for line in lines]
        # Lines about processes come first, chosen or not: a name may be chosen to look like any other line.
        named: list[tuple[EventName | None, str]] = [(event, line) for event, line in known if _names(line)]
        named += [(None, line) for line in NO_EVENT]
        named += [(event, line) for event, line in known if not _names(line) and event in events]
        self._known = [(event, re.compile(line, re.DOTALL)) for event, line in named]
        self._own: list[re.Pattern[str]] = []
        for pattern in patterns:
            try:
                self._own.append(re.compile(pattern))
            except re.error as exc:
                raise ValueError(f"{pattern!r} is not a regular expression: {exc}") from exc

    def find(self, message: str) -> KernelEvent | None:
        """Return what *message*, escaped, reports; events match at its start, the user's own patterns anywhere."""
        known = _first_known(self._known, bytes_of(message))
        if known and known.event in self._chosen:
            return known
        return next(filter(None, (_first_own(own, message) for own in self._own)), None)


def _names(pattern: str) -> bool:
    return "(?P<comm>" in pattern or "(?P<pid>" in pattern


def context_of(message: str) -> ProcessLine | None:
    """Return whom *message* names, if it is the line that begins every dump of registers or of a stack."""
    found = _CONTEXT.match(bytes_of(message)) if message.startswith("CPU: ") else None
    # "b Kdump: loaded" can be a name, or "b" with a crash kernel that is loaded.
    either = found is not None and not found["kdump"] and found["comm"].endswith(" Kdump: loaded")
    line = _process_of(found)
    return line._replace(comm=None) if line is not None and either else line


def oom_summary_of(message: str) -> ProcessLine | None:
    """Return whom the line before an OOM kill names, with ``oom_constraint`` and the control groups as attributes."""
    # Users name the control groups that are delegated to them, and their processes: with two readings, nothing counts.
    once = all(message.count(mark) == 1 for mark in (",task_memcg=", ",task=", ",pid=", ",uid="))
    if not message.startswith("oom-kill:") or not once or message.count(",oom_memcg=") > 1:
        return None
    return _process_of(_OOM.match(bytes_of(message)))


def _process_of(found: re.Match[str] | None) -> ProcessLine | None:
    if found is None:
        return None
    groups = found.groupdict()
    pid = parse_number(groups["pid"])
    if pid is None:
        return None
    return ProcessLine(pid, _name(found["comm"]), parse_number(groups.get("cpu")), _facts(groups))


def _first_known(known: list[tuple[EventName | None, re.Pattern[str]]], line: str) -> KernelEvent | None:
    for event, pattern in known:
        if found := pattern.match(line):
            if event is None:
                return None
            groups = found.groupdict()
            comm, uid = groups.get("comm"), groups.get("uid") or groups.get("uid_before")
            return KernelEvent(
                event,
                parse_number(groups.get("pid")) or None,  # 0 is the idle task of a CPU
                None if comm is None else _name(comm),
                parse_number(uid),
                cpu=parse_number(groups.get("cpu")),
                facts=_facts(groups),
            )
    return None


def _name(raw: str) -> str:
    return escape(raw.encode("latin-1"))


def _facts(groups: dict[str, str | None]) -> tuple[tuple[str, str], ...]:
    """Return the groups that are attributes; numbers in one form, which the kernel prints with and without 0x."""
    said = [(key, value) for key, value in groups.items() if value is not None and key.startswith(("fault_", "oom_"))]
    return tuple((key, _FORMS.get(key, _name)(value)) for key, value in said)


def _address(raw: str) -> str:
    return f"{0 if raw == '(null)' else int(raw, 16):#x}"  # "(null)" before 4.15


def _error(raw: str) -> str:
    return str(int(raw, 16))


_FORMS = {"fault_address": _address, "fault_ip": _address, "fault_error": _error}


def _first_own(pattern: re.Pattern[str], message: str) -> KernelEvent | None:
    """Return the event of a user's own pattern; where it can be read in two ways, about nobody."""
    found = pattern.search(message)
    if found is None:
        return None
    groups = found.groupdict()
    pid, uid = parse_number(groups.get("pid")), parse_number(groups.get("uid"))
    if pid is not None:
        # Hide the PID that was found: what still matches is another reading.
        start, end = found.span("pid")
        other = pattern.search(message[:start] + "#" * (end - start) + message[end:])
        second = parse_number(other["pid"]) if other else None
        if second not in (None, pid):
            return KernelEvent("pattern", unclear=f"the line can be read as naming PID {pid} or PID {second}")
    return KernelEvent("pattern", pid, groups.get("comm"), uid)


def bytes_of(message: str) -> str:
    """Return an escaped message as the kernel's bytes, one character (U+0000 to U+00FF) each."""
    raw = message.encode("utf-8", "surrogateescape").decode("latin-1")
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else "\\", raw)
