"""Crashes and what a configuration must do about them: the file of ``collector config test``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from collector.config.convert import Converter
from collector.config.load import read_tree
from collector.config.nodes import MappingNode, Node, SequenceNode, walk
from collector.config.scalars import suggest
from collector.model.conditions import MANUAL
from collector.model.constrained import Signal
from collector.model.diagnostics import Diagnostic, Mark, errors
from collector.model.errors import ConfigError
from collector.model.knowledge import NOTHING
from collector.model.marker import Marker, MarkerKind
from collector.model.signals import UnknownSignalError, signal_number
from collector.model.units import quote
from collector.pipeline.compile import MANUAL_PIPELINE, Plan
from collector.pipeline.preview import not_applicable, unmet
from collector.triggers.kernel_catalogue import EventName
from collector.triggers.unseen import why_unseen


class ExpectedRun(msgspec.Struct, frozen=True, kw_only=True):
    """
    What must become of a crash.

    Args:
        noticed: ``false``: the trigger must not report it at all.
        pipeline: The pipeline that must run.
        steps: Steps that must run, among others.
        only: Steps that must run, and no others.
        without: Steps that must not run.
    """

    noticed: bool = True
    pipeline: str | None = None
    steps: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()


class CrashTest(msgspec.Struct, frozen=True, kw_only=True):
    """
    One crash, as far as it matters: what is left out is unknown to the trigger, and meets no condition.

    Args:
        name: In the output.
        trigger: Id of the trigger that reports it first; ``manual`` for ``collector run --now``.
        also: Ids of further triggers that see the same crash.
        comm: Command name, at most 15 characters.
        exe: Path of the executable.
        unit: Systemd unit.
        signal: Signal that killed it.
        status: Exit status, if it was not killed.
        uid: User whose process it was, or whose file it is.
        event: Event of the kernel's log, for `kernel_log`.
        file: Path of the core or of the exit file, for `core_files` and `exit_files`.
        expect: What must become of it.
    """

    name: str
    trigger: str
    also: tuple[str, ...] = ()
    comm: str | None = None
    exe: str | None = None
    unit: str | None = None
    signal: Signal | None = None
    status: Annotated[int, msgspec.Meta(ge=1, le=255)] | None = None
    uid: Annotated[int, msgspec.Meta(ge=0)] | None = None
    event: EventName | None = None
    file: Annotated[str, msgspec.Meta(pattern=r"^/")] | None = None
    expect: ExpectedRun


class CrashTestFile(msgspec.Struct, frozen=True, kw_only=True):
    """
    The whole file.

    Args:
        version: Version of this language: 1.
        crashes: The crashes, in any order.
    """

    version: Literal[1]
    crashes: tuple[CrashTest, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """
    What would become of one crash.

    *unseen* is why nobody would notice it. *steps* would run, of *pipeline*; *left_out* says why the others would not.
    *problems* is what is not as expected, in sentences.
    """

    test: CrashTest
    mark: Mark
    pipeline: str | None
    unseen: str | None
    steps: tuple[str, ...]
    left_out: dict[str, str]
    problems: tuple[str, ...]


def read_tests(path: str, plan: Plan[Any]) -> list[tuple[CrashTest, Mark]]:
    """
    Return the crashes of the file at *path*, with their places.

    Raises:
        ConfigError: If the file has mistakes, or names what *plan* does not have: such an expectation would be met by
            accident.
    """
    tree, found = read_tree(path)
    diagnostics = list(found)
    if tree is None:
        raise ConfigError(tuple(diagnostics))
    converter = Converter()
    read = converter.read(tree, CrashTestFile, "the file")
    diagnostics += converter.diagnostics
    if not errors(diagnostics) and not read.crashes:
        place = tree.get("crashes") or tree
        diagnostics.append(Diagnostic(mark=place.mark, message="there is no crash to try", hint="describe one"))
    if not errors(diagnostics):
        nodes = _crashes(tree)
        diagnostics += [
            each for test, node in zip(read.crashes, nodes, strict=True) for each in _doubts(test, node, plan)
        ]
    if errors(diagnostics):
        raise ConfigError(tuple(diagnostics))
    return [(test, node.mark) for test, node in zip(read.crashes, _crashes(tree), strict=True)]


def _crashes(tree: MappingNode) -> tuple[Node, ...]:
    node = tree.get("crashes")
    return node.items if isinstance(node, SequenceNode) else ()


def _doubts(test: CrashTest, node: Node, plan: Plan[Any]) -> Iterator[Diagnostic]:
    """Yield the names that *plan* does not have."""
    config = plan.loaded.config
    triggers = [MANUAL, *(trigger.id for trigger in config.triggers)]
    pipelines = list(config.pipelines)
    steps = [step.id for pipeline in config.pipelines.values() for step in pipeline.steps]
    expect = test.expect
    named: tuple[tuple[str, str, Iterable[str], list[str]], ...] = (
        ("trigger", "trigger", [test.trigger], triggers),
        ("trigger", "also", test.also, triggers),
        ("pipeline", "pipeline", [expect.pipeline] if expect.pipeline else [], pipelines),
        *(("step", key, getattr(expect, key) or (), steps) for key in ("steps", "only", "without")),
    )
    marks = {(str(path[-1 if isinstance(path[-1], str) else -2]), getattr(below, "text", "")): below.mark
             for path, below in walk(node) if path}  # fmt: skip
    for noun, key, words, known in named:
        for word in words:
            if word not in known:
                mark = marks.get((key, word), node.mark)
                hint = suggest(word, dict.fromkeys(known))
                yield Diagnostic(mark=mark, message=f"there is no {noun} {quote(word)}", hint=hint)
    if test.signal is not None:
        try:
            signal_number(test.signal)
        except UnknownSignalError as exc:
            yield Diagnostic(mark=marks.get(("signal", test.signal), node.mark), message=str(exc), hint=exc.hint)


def try_crash(test: CrashTest, mark: Mark, plan: Plan[Any]) -> Tried:
    """Return what *plan* would do about a crash, by the code that decides it when there is one."""
    marker = _marker(test)
    running = {one.id: one for one in plan.triggers}
    unseen, pipeline = None, MANUAL_PIPELINE
    if test.trigger != MANUAL:
        unseen = "the trigger is off" if test.trigger not in running else why_unseen(
            running[test.trigger].trigger, marker, event=test.event, file=test.file
        )  # fmt: skip
        pipeline = next(given.pipeline for given in plan.loaded.config.triggers if given.id == test.trigger)
    steps: tuple[str, ...] = ()
    left_out: dict[str, str] = {}
    if unseen is None and pipeline in plan.pipelines:
        sources = {one: running[one].trigger.knows if one in running else NOTHING for one in (test.trigger, *test.also)}
        knows = next((known for known in sources.values() if known != NOTHING), NOTHING)
        judged = {
            step.id: unmet(step, marker, sources) or not_applicable(step.collector, marker, knows)
            for step in plan.pipelines[pipeline].steps
        }
        steps = tuple(step for step, why in judged.items() if why is None)
        left_out = {step: why for step, why in judged.items() if why is not None}
    tried = Tried(
        test=test, mark=mark, pipeline=None if unseen else pipeline, unseen=unseen, steps=steps, left_out=left_out,
        problems=(),
    )  # fmt: skip
    return dataclasses.replace(tried, problems=tuple(_problems(tried)))


def _marker(test: CrashTest) -> Marker:
    signal = None if test.signal is None else signal_number(test.signal)
    if signal is None and test.event == "oom_kill":
        signal = 9  # the only one that this event knows
    return Marker(
        kind=MarkerKind.MANUAL if test.trigger == MANUAL else MarkerKind.EXIT,
        trigger=test.trigger,
        at_s=0.0,
        comm=test.comm,
        exe=test.exe,
        unit=test.unit,
        uid=test.uid,
        signal=signal,
        exit_status=test.status,
        joined=test.also,
    )


def _problems(tried: Tried) -> Iterator[str]:
    """Yield what is not as expected."""
    expect = tried.test.expect
    if tried.unseen is not None:
        if expect.noticed:
            yield f"it is not noticed: {tried.unseen}"
        return
    if not expect.noticed:
        yield f"it is noticed, and runs pipeline {tried.pipeline}"
        return
    if expect.pipeline is not None and expect.pipeline != tried.pipeline:
        yield f"pipeline {tried.pipeline} runs, not {expect.pipeline}"
    wanted = dict.fromkeys((*expect.steps, *(expect.only or ())))
    yield from (f"step {step} does not run: {_why(tried, step)}" for step in wanted if step not in tried.steps)
    unwanted = [step for step in tried.steps if expect.only is not None and step not in wanted]
    unwanted += [step for step in expect.without if step in tried.steps and step not in unwanted]
    yield from (f"step {step} runs" for step in unwanted)


def _why(tried: Tried, step: str) -> str:
    return tried.left_out.get(step, f"pipeline {tried.pipeline} has no such step, or it is off")
