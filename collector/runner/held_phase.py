"""
What an incident takes from a crashed process that the kernel holds.

Its files are read first, its segments opened, then its dump is taken, and it is let go: in this order by what the
collectors declare, whatever the configuration file says. It may come to be held at any time: before anything is read,
or while the incident that its exit has opened is under way.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing

from collector.host.files import Host
from collector.host.held_process import HeldProcess
from collector.host.process_stat import STAT_LIMIT, parse_stat
from collector.model.artifact import HeldUse
from collector.model.case import merge
from collector.model.incident import HoldRecord, StepEnd, StepStatus
from collector.pipeline.steps import Step
from collector.runner.bulk_phase import TURN_S, judge, run_step
from collector.runner.bulk_turns import BulkTurns
from collector.runner.coroutine import T as Result
from collector.runner.coroutine import Task, beside, sleep
from collector.runner.incident_run import STOPPED, IncidentRun
from collector.runner.light_phase import LightPhase

CHECK_S = 0.1
"""How often an incident that waits looks for a process that has come to be held: another one is held meanwhile."""

MARGIN = 0.2
"""The last share of its time: a process that still waits then is let go with a part of its dump. Of the 30 s that ship
these are 6; to read a part takes a fraction of a second."""

MEMORY_THREADS = 32
"""Threads whose stacks fit into the memory for light evidence, unless they are deep; of more, they go to the disk."""

OTHERS = "the dumps of others, or a slow disk, had used up its time"


class HeldPhase:
    """Takes what the steps of one incident need of a process that is held; dumps are received by *turns*."""

    def __init__(self, run: IncidentRun, turns: BulkTurns) -> None:
        self._run = run
        self._turns = turns
        self._process: HeldProcess | None = None
        self._dump: Step | None = None
        """The step that is to take the dump once the incident has its directory."""
        self._left: list[Step] = []
        """Steps whose evidence did not fit into memory: they are read on before the dump is taken."""
        self._unwritten: list[LightPhase] = []

    def take(self, light: LightPhase) -> Task[None]:
        """Take what is read and opened of a process that has come to be held, and its dump if a part of it will do."""
        process = self._run.held()
        if process is None or process is self._process or not process.is_held:
            return
        self._process, self._run.was_held = process, True
        steps = [step for step in self._run.remaining_steps() if step.id not in self._run.begun]
        read = [step for step in steps if step.held is HeldUse.READ]
        dump = self._dump_step(steps)
        for step in (*read, *(step for step in steps if step.held is HeldUse.OPEN)):
            yield from light.read_step(step, process)
        self._left = [step for step in read if light.is_left(step)]
        if dump is None:
            process.release("no step takes its dump")
        elif (reason := process.hurry or self._objections(dump)) or not (
            dump.receives_dump or self._left or _threads(process) > MEMORY_THREADS
        ):
            yield from self._take_dump(light, process, dump, reason)
        else:
            self._dump = dump

    def beside(self, task: Task[Result]) -> Task[Result]:
        """Run *task*, and beside it what a process that is held cannot wait for."""
        return beside(task, self._attend, every_s=CHECK_S)

    def receive(self) -> Task[None]:
        """
        Read what of the process did not fit into memory, then receive the dump: in full, as soon as it is its turn.

        The incident has its directory.
        """
        run, process, dump = self._run, self._process, self._dump
        if process is None or dump is None:
            return
        if any(step.id not in run.early_parts for step in self._left):
            return  # their first part is being written
        self._dump = None
        for step in self._left:
            if process.is_held:
                yield from run_step(run, step, process)
        if not dump.receives_dump:  # a part is small: it waits for nobody's
            yield from self._receive(process, dump, self._objections(dump))
            return
        self._turns.enter(run.id, run.header.owner)
        try:
            while not (its_turn := self._turns.is_its(run.id)) and self._may_wait(process):
                yield from sleep(TURN_S)
            in_time = its_turn and self._may_wait(process)
            yield from self._receive(process, dump, self._objections(dump) if in_time else self._why_late())
        finally:
            self._turns.leave(run.id)

    def record(self) -> HoldRecord | None:
        """Return for how long the process was held, if one was."""
        process = self._process
        if process is None or process.held_s is None:
            return None
        return HoldRecord(seconds=process.held_s, ended=process.ended)

    def close(self) -> None:
        """Let the process go, and return the workers."""
        if self._process is not None:
            self._process.release("its incident was over")
        while self._unwritten:
            self._unwritten.pop().close()

    def _dump_step(self, steps: Sequence[Step]) -> Step | None:
        """Return the step that takes the dump: of those not begun, or one that has found no core just before."""
        run = self._run
        found = [step for step in run.pipeline.steps if run.begun.get(step.id) not in {None, StepStatus.OK}]
        retried = found if merge(run.markers()).core is None else []
        step = next((step for step in (*steps, *retried) if step.held is HeldUse.DUMP), None)
        if step is not None:
            run.begun[step.id] = None
            run.ends = [end for end in run.ends if end.id != step.id]
        return step

    def _receive(self, process: HeldProcess, dump: Step, reason: str) -> Task[None]:
        """Run the step, or take a part for *reason*; then let the process go."""
        if reason:
            yield from self._take_late(process, dump, reason)
            return
        with self._run.pool.widened():  # what others read first must not wait for it
            yield from run_step(self._run, dump, process)
        process.release(_received(self._run.ends[-1]))

    def _attend(self) -> Task[None]:
        run, process, dump = self._run, self._process, self._dump
        came = run.held()
        if came is not None and came is not process and came.is_held:
            light = LightPhase(run)
            self._unwritten.append(light)
            yield from self.take(light)
        elif process is not None and dump is not None and not self._may_wait(process):
            self._dump = None
            yield from self._take_late(process, dump, self._why_late())
        if run.lock >= 0:
            yield from self._write()
            yield from self.receive()

    def _take_late(self, process: HeldProcess, dump: Step, reason: str) -> Task[None]:
        """Take a part of the dump beside what else goes on: the disk may not have answered yet."""
        light = LightPhase(self._run)
        self._unwritten.append(light)
        yield from self._take_dump(light, process, dump, reason)
        if self._run.lock >= 0:
            yield from self._write()

    def _take_dump(self, light: LightPhase, process: HeldProcess, dump: Step, reason: str) -> Task[None]:
        process.hurry = reason
        yield from light.read_step(dump, process)
        if self._run.begun[dump.id] is StepStatus.SKIPPED:
            process.release(f"its dump was not taken: {reason}" if reason else "its dump was not taken")
        else:
            process.release(f"a part of its dump was taken: {reason}" if reason else "its dump was taken")

    def _write(self) -> Task[None]:
        while self._unwritten:
            with closing(self._unwritten.pop(0)) as light:
                yield from light.write()

    def _objections(self, dump: Step) -> str:
        """Return why the dump should not be received in full now; the disk's reasons count as well."""
        return judge(self._run, dump).reason

    def _why_late(self) -> str:
        return STOPPED if self._run.pool.stopping else OTHERS

    def _may_wait(self, process: HeldProcess) -> bool:
        late_s = process.deadline_s - MARGIN * (process.deadline_s - process.since_s)
        return process.is_held and time.monotonic() < late_s and not self._run.pool.stopping


def _threads(process: HeldProcess) -> int:
    try:
        return parse_stat(Host().read(f"/proc/{process.process.pid}/stat", limit=STAT_LIMIT)).threads
    except (OSError, ValueError):
        return 0


def _received(end: StepEnd) -> str:
    if end.status is StepStatus.OK:
        return "its dump was received"
    return f"the step that took its dump is {end.status}: {end.reason}"
