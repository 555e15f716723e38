"""The flight recorder's writer: a row of the machine's figures at each period."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from collector.host.clock import boot_s
from collector.host.disk_counters import disk_of
from collector.host.files import Host
from collector.host.filesystem import nearest_directory
from collector.host.machine_counters import MachineCounters
from collector.model.recording import SECOND, Recording
from collector.pressure.sampler import TICK_S, Sampler
from collector.runner import events
from collector.runner.coroutine import Task, beside

T = TypeVar("T")

CPU_CLOCK = 2
"""CPUCLOCK_SCHED, of the process whose number is in the upper bits. Source: clock_getcpuclockid(3)."""


class Recorder:
    """
    Writes rows into a recording.

    Args:
        sampler: Read at each tick; what it reads is not read twice.
        archive: Path of the archive, whose disk has a place of its own.
        workers: Returns the process ids of the workers.
        clock: Returns the seconds since boot.
    """

    def __init__(
        self,
        recording: Recording,
        sampler: Sampler,
        archive: str,
        workers: Callable[[], Iterable[int]],
        clock: Callable[[], float] = boot_s,
    ) -> None:
        self.recording = recording
        self._sampler = sampler
        self._workers = workers
        self._clock = clock
        self._counters = MachineCounters(Host(), disk_of(nearest_directory(archive)))
        self._period_s = recording.settings.period_s
        self._due_s = 0.0
        self._moved: dict[str, int] = {}
        self._finished = 0

    def tick(self) -> None:
        """Write a row if it is time to; to be called just after each tick of the sampler."""
        now_s = self._clock()
        if now_s < self._due_s - TICK_S / 2:
            return
        on_time = now_s - self._due_s < self._period_s
        self._due_s = (self._due_s if on_time else now_s) + self._period_s
        self._write(now_s)

    def read_and_tick(self) -> None:
        """Do as `tick` does where nobody else has the sampler tick."""
        self._sampler.tick()
        self.tick()

    def mark(self) -> None:
        """
        Write a row now: an incident begins or ends. It may last for less than a period.

        The next one comes a period later: the limits of `storm` let incidents displace at most a quarter of the rows.
        """
        self._sampler.tick()
        now_s = self._clock()
        self._due_s = now_s + self._period_s
        self._write(now_s)

    def note(self, event: events.AnyEvent) -> None:
        """Follow what incidents write."""
        match event:
            case events.EvidenceRead():
                self._moved.setdefault(event.incident, 0)
            case events.StepProgressed():
                self._moved[event.incident] = event.size_bytes
            case events.StepFinished():
                self._moved[event.incident] = 0
                self._finished += event.size_bytes
            case events.IncidentArchived() | events.IncidentRefused():
                self._finished += self._moved.pop(event.incident, 0)

    def _write(self, now_s: float) -> None:
        figures, disks = self._counters.read(self._sampler.vmstat.text, self._sampler.psi)
        own = (self._own_cpu_us(), self._finished + sum(self._moved.values()), len(self._moved))
        self.recording.seconds.append(SECOND.pack(round(now_s * 1e9), *figures, *own, *disks))

    def _own_cpu_us(self) -> int:
        """Return the CPU time of this process and its workers, living and past."""
        used_s = time.process_time()
        past = resource.getrusage(resource.RUSAGE_CHILDREN)
        used_s += past.ru_utime + past.ru_stime
        for pid in self._workers():
            try:
                used_s += time.clock_gettime(~pid << 3 | CPU_CLOCK)
            except OSError:  # it has died
                continue
        return round(used_s * 1e6)


def recorded(task: Task[T], recorder: Recorder) -> Task[T]:
    """Run *task*, and write the rows that fall due meanwhile."""

    def tick() -> Task[None]:
        recorder.read_and_tick()
        yield from ()

    return beside(task, tick, every_s=TICK_S)
