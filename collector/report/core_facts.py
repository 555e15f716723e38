"""What a story needs of ``core.json``: reading it as a whole would import what only collectors need, 25 ms."""

from __future__ import annotations

import msgspec


class CoreSignalFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The signal, as `collectors.core.notes.CoreSignal` has it."""

    name: str
    code_name: str = ""
    fault_address: str | None = None
    sender_pid: int | None = None


class CrashedThread(msgspec.Struct, frozen=True, kw_only=True):
    """The thread that crashed."""

    tid: int = 0


class CoreFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Part of `collectors.core.summary.CoreSummary`; incidents of earlier releases lack what has a default."""

    path: str = ""
    problem: str = ""
    signal: CoreSignalFacts | None = None
    command: str = ""
    crashed_thread: CrashedThread | None = None
    threads: int = 0
    cut_off: bool = False
    content: str = ""
    build_id: str = ""
    frames: tuple[str, ...] = ()
    frames_end: str = ""
    signature: str = ""
    signature_of: str = ""
    crash_key: str = ""
    diagnosis: str = ""
    diagnosis_kind: str = ""
