"""Test collectors for a process that is held: they take its dump in each of the ways that there are."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

from collector.collectors.base import Context
from collector.host.held_process import HeldProcess
from collector.model.artifact import Artifact, Footprint, HeldUse, Incoming, NotApplicable
from collector.model.pressure import StepClass

LIVE = Footprint(step_class=StepClass.DIRECT, peak_bytes=1 << 20, timeout_s=30.0, light_head=True, held=HeldUse.DUMP)


def accepted(ctx: Context) -> HeldProcess:
    if ctx.held is None:
        raise NotApplicable("nobody is held")
    ctx.held.accept()
    return ctx.held


def received(held: HeldProcess) -> Iterator[bytes]:
    while piece := os.read(held.stream_fd, 1 << 16):
        yield piece


@dataclass(frozen=True, slots=True, kw_only=True)
class Dumper:
    """
    Receives the dump in full; in a hurry, what fits into memory.

    It first says why it must hurry, and whether *archive* exists.
    """

    name: ClassVar[str] = "dumper"
    footprint: ClassVar[Footprint] = LIVE
    archive: str = "/nonexistent"
    receives_dump: bool = True

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        held = accepted(ctx)
        yield Artifact(path=PurePosixPath("hurry"), body=held.hurry.encode())
        yield Artifact(path=PurePosixPath("archive"), body=str(os.path.exists(self.archive)).encode())
        if held.hurry or not self.receives_dump:
            yield Artifact(path=PurePosixPath("core"), body=received(held))
        else:
            yield Artifact(path=PurePosixPath("core"), body=Incoming(fd=held.stream_fd))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """Accepts the dump, says whether its time ends with the hold, then hangs; says so by creating *file*."""

    name: ClassVar[str] = "stuck"
    footprint: ClassVar[Footprint] = LIVE
    file: str

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        held = accepted(ctx)
        yield Artifact(path=PurePosixPath("in_time"), body=str(ctx.deadline_s <= held.deadline_s).encode())
        yield Artifact(path=PurePosixPath("first"), body=b"what it had")
        Path(self.file).touch()
        time.sleep(60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dies:
    """Accepts the dump, then its worker is killed."""

    name: ClassVar[str] = "dies"
    footprint: ClassVar[Footprint] = LIVE

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        accepted(ctx)
        yield Artifact(path=PurePosixPath("first"), body=b"what it had")
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lasts:
    """Bulk that goes on until the marker's process is gone."""

    name: ClassVar[str] = "lasts"
    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.DIRECT, peak_bytes=1 << 20, timeout_s=30.0)
    pid: int

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        while is_there(self.pid) and ctx.remaining_s() > 0:
            time.sleep(0.01)
        yield Artifact(path=PurePosixPath("gone"), body=str(not is_there(self.pid)).encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Quick:
    """A light step that needs nothing of the process."""

    name: ClassVar[str] = "quick"
    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.LIGHT, peak_bytes=1 << 20, timeout_s=5.0)

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        yield Artifact(path=PurePosixPath("quick"), body=str(ctx.held).encode())


def is_there(pid: int) -> bool:
    """Return whether a process is there, and not only its exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """Says which of its worker's descriptors a program that it starts would have."""

    name: ClassVar[str] = "inherited"
    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.LIGHT, peak_bytes=1 << 20, timeout_s=5.0)

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        fds = [int(name) for name in os.listdir("/proc/self/fd")]
        passed = [fd for fd in fds if fd > 2 and os.path.exists(f"/proc/self/fd/{fd}") and os.get_inheritable(fd)]
        yield Artifact(path=PurePosixPath("inherited"), body=repr(passed).encode())
