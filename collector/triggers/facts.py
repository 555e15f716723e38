"""What supervisors report about a crash in KEY=VALUE lines or JSON, and how far they are trusted."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass

import msgspec

from collector.host.files import Host
from collector.model.marker import Marker, MarkerKind, ProcessRef
from collector.model.signals import signal_number
from collector.model.text import parse_number, printable

MAX_FACTS = 64
VALUE_LENGTH = 4096
NUMBERS = ("PID", "START_TIME", "UID")
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_decode = msgspec.json.Decoder(dict[str, str | int | float | bool | None]).decode


def parse(data: bytes) -> dict[str, str]:
    """
    Return the facts in *data*: a JSON object of scalars, or lines of ``KEY=VALUE``; keys in capitals.

    Anything else is left out; at most 64 facts, each made printable and cut at 4,096 characters.
    """
    pairs: list[tuple[str, str]] = []
    if data.lstrip().startswith(b"{"):
        try:
            pairs = [(key, "" if value is None else str(value)) for key, value in _decode(data).items()]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return {}
    else:
        for line in data.decode(errors="surrogateescape").splitlines():
            key, equals, value = line.partition("=")
            if equals:
                pairs.append((key.strip(), value))
    known = [(key.upper(), printable(value, limit=VALUE_LENGTH)) for key, value in pairs if _KEY.fullmatch(key)]
    return dict(known[:MAX_FACTS])


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """Who reports it; *uid* is the peer's or the file owner's, as the kernel knows it."""

    kind: MarkerKind
    trigger: str
    uid: int
    what: str
    identity: str | None = None
    refused: str | None = None


def marker_of(facts: dict[str, str], speaker: Speaker, host: Host) -> Marker:
    """
    Return the marker for *facts*.

    Only root may report for others: whatever another user reports is that user's own crash, and cannot name another
    user's living process. Keys are those that systemd passes to ``ExecStopPost=`` and ``OnFailure=``
    (``SERVICE_RESULT``, ``EXIT_CODE``, ``EXIT_STATUS``, with or without ``MONITOR_``), and
    ``PID``, ``START_TIME`` (clock ticks since boot), ``COMM``, ``EXE``, ``UID``, ``UNIT``, ``SIGNAL``,
    ``REASON``. Source: systemd.exec(5), "Environment Variables Set or Propagated by the Service Manager".
    """
    said = {key.removeprefix("MONITOR_"): value for key, value in facts.items()} | facts
    attributes = dict(facts)
    pid = parse_number(said.get("PID"))
    if pid and speaker.uid != 0 and not _may_name(host, pid, speaker.uid):
        pid, attributes["PID_NOT_THEIRS"] = None, str(pid)
    uid = parse_number(said.get("UID")) if speaker.uid == 0 else speaker.uid
    number, status = _death(said)
    if speaker.identity:
        attributes["identity"] = speaker.identity
    result = said.get("SERVICE_RESULT")
    return Marker(
        kind=speaker.kind,
        trigger=speaker.trigger,
        at_s=time.time(),
        reason=said.get("REASON") or f"{speaker.what}{': ' + result if result else ''}",
        process=ProcessRef(pid=pid, start_time_ticks=parse_number(said.get("START_TIME"))) if pid else None,
        comm=said.get("COMM") or None,
        exe=said.get("EXE") or None,
        uid=uid,
        unit=said.get("UNIT") or None,
        signal=number,
        exit_status=status,
        attributes=attributes,
        refused=speaker.refused,
    )


def misread(facts: dict[str, str]) -> list[str]:
    """Return the facts that `marker_of` ignores because they are not numbers."""
    return [f"{key}={facts[key]}" for key in NUMBERS if facts.get(key) and parse_number(facts[key]) is None]


def _death(said: dict[str, str]) -> tuple[int | None, int | None]:
    """Return signal and status; systemd's ``EXIT_STATUS`` is one or the other, by ``EXIT_CODE``."""
    if (number := _signal(said.get("SIGNAL"))) is not None:
        return number, None
    if said.get("EXIT_CODE") in {"killed", "dumped"}:
        return _signal(said.get("EXIT_STATUS")), None
    return None, parse_number(said.get("EXIT_STATUS"))


def _signal(text: str | None) -> int | None:
    """Return the number of a signal given as number, ``SIGSEGV`` or ``SEGV``."""
    if not text:
        return None
    try:
        return signal_number(text)
    except ValueError:
        return parse_number(text)


def _may_name(host: Host, pid: int, uid: int) -> bool:
    """Return whether *pid* is the user's own process, or gone."""
    try:
        return os.stat(host.path(f"/proc/{pid}")).st_uid == uid
    except OSError:
        return True
