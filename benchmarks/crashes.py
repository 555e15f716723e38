"""Crashes on demand, and what their incidents contain."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any, Self

SOURCE = Path(__file__).parent / "processes.c"
LIGHT = ("memory", "processes", "process", "kernel_log")
"""Steps that count as light if the manifest does not say the class of a step."""

UNSEALED = "not sealed in time"

CrashResult = dict[str, Any]


def compiled(directory: Path, name: str = "victim") -> Path:
    """Compile the processes that run beside the daemon; crashes are told apart by the executable's *name*."""
    program = directory / name
    subprocess.run(["gcc", "-O1", "-o", program, SOURCE], check=True)
    return program


class Crasher:
    """A process that crashes when told to: one that maps a segment, or has so many bytes of its own."""

    def __init__(self, program: Path, memory: Path | int) -> None:
        self._process = subprocess.Popen(
            [program, "heap" if isinstance(memory, int) else "crash", str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.pid = int(self._process.stdout.readline())

    def crash(self) -> float:
        """Let it dump core; return the wall clock right after the kernel is done with it."""
        assert self._process.stdin is not None
        output, _ = self._process.communicate("\n")
        status, done_s = output.split()
        if os.WTERMSIG(int(status)) != signal.SIGSEGV or not os.WCOREDUMP(int(status)):
            raise RuntimeError(f"no core of {self.pid}: wait status {status}")
        return float(done_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.communicate("")


def outcome(manifest: dict[str, Any] | None, done_s: float, segment_bytes: int) -> CrashResult:
    """
    Return what was archived, and after how many seconds.

    Times count from the time at which the core was written or that of the first marker, whichever is later. A marker
    may be earlier, since the daemon also watches exits, or later, since it may be slow to notice; *noticed_s* is the
    difference. For an incident that is not sealed, its journal so far is used.
    """
    if manifest is None:
        return {"state": UNSEALED, "segment": UNSEALED}
    marker_s = manifest["markers"][0]["at_s"]
    moment_s = max(done_s, marker_s)
    light = [step for step in manifest["steps"] if _is_light(step)]
    reads = [_read_s(step, artifact) for step in light for artifact in step.get("artifacts", ())]
    ended = {step["id"] for step in manifest["steps"]}
    missing = {step["id"]: _ended(step) for step in light if not _done(step)}
    missing |= {step: "not recorded" for step in manifest.get("planned", ()) if step in LIGHT and step not in ended}
    return {
        "state": manifest.get("state", UNSEALED),
        "noticed_s": round(marker_s - done_s, 3) or 0.0,  # not -0.0
        "light_read_s": round(max(reads) - moment_s, 3) if reads else None,
        "light_read_known": all("read_s" in artifact for step in light for artifact in step.get("artifacts", ())),
        "light_missing": missing,
        "sealed_s": round(manifest["ended_s"] - moment_s, 3) if "ended_s" in manifest else None,
        "segment": _segment(manifest, segment_bytes),
        "steps": {step["id"]: step["status"] for step in manifest["steps"]},
        "reasons": {step["id"]: step["reason"] for step in manifest["steps"] if step.get("reason")},
    }


def _is_light(step: dict[str, Any]) -> bool:
    return bool((step.get("verdict") or {}).get("step_class", "light" if step["id"] in LIGHT else "other") == "light")


def _read_s(step: dict[str, Any], artifact: dict[str, Any]) -> float:
    """Return when an artifact was read, or when its step ended if the manifest does not say."""
    return float(artifact.get("read_s") or step["started_s"] + step["duration_s"])


def _done(step: dict[str, Any]) -> bool:
    return step["status"] in ("ok", "not_applicable")


def _ended(step: dict[str, Any]) -> str:
    return f"{step['status']}: {step['reason']}" if step.get("reason") else str(step["status"])


def _segment(manifest: dict[str, Any], size: int) -> str:
    """Return *complete*, or how the step that copies the segment ended."""
    steps = [step for step in manifest["steps"] if step["collector"] == "shm"]
    copies = [artifact for step in steps for artifact in step.get("artifacts", ())]
    if any(copy["data_bytes"] == size and not copy.get("truncated") for copy in copies):
        return "complete"
    reasons = [copy.get("truncated_reason") for copy in copies] + [_ended(step) for step in steps]
    return next((reason for reason in reasons if reason), "missing")
