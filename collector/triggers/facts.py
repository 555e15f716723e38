"""What supervisors report about a crash in KEY=VALUE lines or JSON, and how far they are trusted."""

from __future__ import annotations

import codecs
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from collector.host.files import Host
from collector.host.process_identity import identify_task, thread_group
from collector.model.identity import is_the_reported, with_identity
from collector.model.marker import SYSTEM_UNIT, Marker, MarkerKind, ProcessRef, of_another_namespace
from collector.model.signals import signal_number
from collector.model.text import parse_number, printable

MAX_FACTS = 64
MAX_LINES = 1024
VALUE_LENGTH = 4096
TEXT_LENGTH = 16_384
"""Characters of all the facts together that the program does not know."""

MAX_IGNORED = 4
NUMBERS = ("PID", "START_TIME", "UID")
DEATH = ("SIGNAL", "EXIT_STATUS", "EXIT_CODE", "SERVICE_RESULT")
MAX_PID = 1 << 22  # PID_MAX_LIMIT. Source: include/linux/threads.h
KNOWN = {*NUMBERS, "COMM", "EXE", "UNIT", "SIGNAL", "EXIT_STATUS", "EXIT_CODE", "SERVICE_RESULT", "REASON"}
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_BLANKS = " \t\r"


class Facts(NamedTuple):
    """
    What a report says, by key in capitals.

    *ignored* says what was not understood. *refused* is why the report as a whole is not believed; there are no facts
    then.
    """

    known: dict[str, str]
    ignored: tuple[str, ...] = ()
    refused: str | None = None


def parse(data: bytes) -> Facts:
    """
    Return the facts in *data*: a JSON object, or lines of ``KEY=VALUE`` that end with a line feed and nothing else.

    Keys may be in lower case. The keys in `KNOWN` may have blanks around ``=`` and quotes around the value. Blank lines
    and lines that begin with ``#`` are skipped. A nested JSON value is kept as JSON text. At most 64 facts are kept,
    each made printable and cut at 4,096 characters; of those not in `KNOWN` 16,384 characters in all. A report with a
    key given twice is refused: an attacker who chose one value may have written the other. So is one of more than 1,024
    lines or members: 9,000 of them, in 64 KiB, took 50 ms.
    """
    text = data.removeprefix(codecs.BOM_UTF8).decode(errors="surrogateescape")
    ignored: list[str] = []
    pairs: Sequence[tuple[str, str | None]]
    try:
        pairs = _json_pairs(text) if text.lstrip().startswith("{") else _line_pairs(text)
    except _TooManyError:
        return Facts({}, refused=f"more than {MAX_LINES:,} lines or members")
    except (ValueError, RecursionError) as exc:
        return Facts({}, refused=f"not a JSON object: {exc}")
    known: dict[str, str] = {}
    room = TEXT_LENGTH
    for key, value in pairs:
        if value is None or not _KEY.fullmatch(key):
            ignored.append(f"{printable(key, limit=64)!r} is not {'KEY=VALUE' if value is None else 'a key'}")
        elif key.upper() in known:
            return Facts({}, refused=f"{key.upper()} is given twice")
        elif _is_known(key):
            known[key.upper()] = printable(value, limit=VALUE_LENGTH)
        else:
            known[key.upper()] = text = printable(value, limit=min(VALUE_LENGTH, room))
            room -= len(text)
    twice = [key for key in KNOWN if key in known and known.get(f"MONITOR_{key}", known[key]) != known[key]]
    if twice:
        return Facts({}, refused=f"{min(twice)} is given twice")
    if ignored and not known:
        return Facts({}, refused=f"no facts: {ignored[0]}")
    ignored = _not_understood(_without_prefix(known)) + ignored
    if len(known) > MAX_FACTS:
        ignored.insert(0, f"more than {MAX_FACTS} facts")
    if len(ignored) > MAX_IGNORED:
        ignored[MAX_IGNORED:] = [f"{len(ignored) - MAX_IGNORED} more"]
    return Facts(dict(list(known.items())[:MAX_FACTS]), tuple(ignored))


def _is_known(key: str) -> bool:
    return key.upper().removeprefix("MONITOR_") in KNOWN


class _TooManyError(Exception):
    """There are more lines or members than a report has."""


def _line_pairs(text: str) -> list[tuple[str, str | None]]:
    """Return keys and values of the lines; raise `_TooManyError`."""
    if text.count("\n") > MAX_LINES:
        raise _TooManyError
    return [_pair(line) for line in text.split("\n") if line.strip() and not line.lstrip().startswith("#")]


def _pair(line: str) -> tuple[str, str | None]:
    """Return key and value of a line; without ``=`` the line and ``None``."""
    key, equals, value = line.removesuffix("\r").partition("=")
    if not equals:
        return key, None
    key = key.strip(_BLANKS)
    if _is_known(key):
        value = value.strip(_BLANKS)
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
    return key, value


def _json_pairs(text: str) -> list[tuple[str, str]]:
    """Return the members of a JSON object, also those with the same key; raise `ValueError` or `_TooManyError`."""
    objects: list[list[tuple[str, object]]] = []

    def keep(members: list[tuple[str, object]]) -> dict[str, object]:
        objects[:] = [members]  # the outermost object comes last
        return dict(members)

    json.loads(text, object_pairs_hook=keep)
    if len(objects[0]) > MAX_LINES:
        raise _TooManyError
    pairs = [(key, _json_text(value)) for key, value in objects[0]]
    for pair in pairs:
        "".join(pair).encode(errors="surrogateescape")  # fails for "\ud800", which is JSON and cannot be stored
    return pairs


def _json_text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """
    Who reports it; *uid* is the peer's or the file owner's, as the kernel knows it.

    *sender* is the peer's PID here: what it says are numbers of its own PID namespace.
    """

    kind: MarkerKind
    trigger: str
    uid: int
    what: str
    identity: str | None = None
    refused: str | None = None
    sender: int | None = None


def marker_of(facts: Facts, speaker: Speaker, host: Host) -> Marker:
    """
    Return the marker for *facts*.

    Only root may report for others: whatever another user reports is that user's own crash, and cannot name another
    user's process; one that is gone by now is doubtful. Keys are those that systemd passes to ``ExecStopPost=`` and
    ``OnFailure=`` (``SERVICE_RESULT``, ``EXIT_CODE``, ``EXIT_STATUS``, with or without ``MONITOR_``), and ``PID``,
    ``START_TIME`` (clock ticks since boot), ``COMM``, ``EXE``, ``UID``, ``UNIT``, ``SIGNAL``, ``REASON``.
    Source: systemd.exec(5), "Environment Variables Set or Propagated by the Service Manager".
    """
    said = _without_prefix(facts.known)
    number, status = _death(said)
    attributes = dict(facts.known)
    if speaker.uid == 0 and said.get("UNIT"):
        attributes[SYSTEM_UNIT] = said["UNIT"]
    if speaker.identity:
        attributes["identity"] = speaker.identity
    result = said.get("SERVICE_RESULT")
    reason = said.get("REASON") or f"{speaker.what}{': ' + result if result else ''}"
    if facts.ignored:
        reason += f" (ignored: {'; '.join(facts.ignored)})"
    marker = Marker(
        kind=speaker.kind,
        trigger=speaker.trigger,
        at_s=time.time(),
        reason=reason,
        comm=said.get("COMM") or None,
        exe=said.get("EXE") or None,
        uid=parse_number(said.get("UID")) if speaker.uid == 0 else speaker.uid,
        unit=said.get("UNIT") or None,
        signal=number,
        exit_status=status,
        attributes=attributes,
        refused=speaker.refused or facts.refused,
    )
    return _naming(marker, said, speaker, host) if 0 < (parse_number(said.get("PID")) or 0) <= MAX_PID else marker


def _naming(marker: Marker, said: dict[str, str], speaker: Speaker, host: Host) -> Marker:
    """Return *marker*, naming the process that the report is about, as far as its speaker may name it."""
    pid = parse_number(said["PID"]) or 0
    sender = identify_task(host, speaker.sender) if speaker.sender else None
    if sender is not None and sender.inner_pid not in {None, sender.tgid}:
        if pid != sender.inner_pid:
            return of_another_namespace(marker, pid, "is one of its sender's PID namespace")
        marker, pid = msgspec.structs.replace(marker, inner_pid=pid), sender.tgid  # it speaks of itself
    task = identify_task(host, pid)
    if task is not None and task.tgid != pid:  # a handler within the process may report its own thread
        marker, pid = msgspec.structs.replace(marker, thread=pid), task.tgid
    seen = thread_group(host, task) if task is not None else None
    if speaker.uid not in {0, seen.uid if seen is not None else speaker.uid}:
        return msgspec.structs.replace(marker, attributes=marker.attributes | {"PID_NOT_THEIRS": said["PID"]})
    process = ProcessRef(pid=pid, start_time_ticks=parse_number(said.get("START_TIME")))
    marker = msgspec.structs.replace(marker, process=process)
    over = speaker.kind is MarkerKind.EXIT or any(said.get(key) for key in DEATH)
    if seen is None or not is_the_reported(seen, marker, over=over):
        return msgspec.structs.replace(marker, doubtful=speaker.uid != 0)
    unit = marker.unit if speaker.uid == 0 else None
    named = with_identity(marker, seen)
    return msgspec.structs.replace(named, unit=unit or named.unit)


def _without_prefix(known: dict[str, str]) -> dict[str, str]:
    return {key.removeprefix("MONITOR_"): value for key, value in known.items()} | known


def _not_understood(said: dict[str, str]) -> list[str]:
    """Return the values that `marker_of` has to ignore; an empty one is what the supervisor did not know."""
    shown = {key: f"{key}={printable(value, limit=64)}" for key, value in said.items() if value}
    found = [f"{shown[key]} is not a number" for key in NUMBERS if key in shown and parse_number(said[key]) is None]
    pid = parse_number(said.get("PID"))
    if pid is not None and not 0 < pid <= MAX_PID:
        found.append(f"{shown['PID']} is not a process")
    if "SIGNAL" in shown and _signal(said["SIGNAL"]) is None:
        found.append(f"{shown['SIGNAL']} is not a signal")
    if "EXIT_STATUS" in shown and _status(said) == (None, None):
        found.append(f"{shown['EXIT_STATUS']} is not a status or a signal")
    return found


def _death(said: dict[str, str]) -> tuple[int | None, int | None]:
    """Return signal and status."""
    if (number := _signal(said.get("SIGNAL"))) is not None:
        return number, None
    return _status(said)


def _status(said: dict[str, str]) -> tuple[int | None, int | None]:
    """Return signal and status; systemd's ``EXIT_STATUS`` is one or the other, by ``EXIT_CODE``."""
    text = said.get("EXIT_STATUS")
    status = None if said.get("EXIT_CODE", "").lower() in {"killed", "dumped"} else parse_number(text)
    return (_signal(text), None) if status is None else (None, status)


def _signal(text: str | None) -> int | None:
    """Return the number of a signal given as in `signal_number`, in capitals or not."""
    try:
        return signal_number(text.upper()) if text else None
    except ValueError:
        return None
