"""A story on one screen: what matters first, in 80 columns and less than 24 lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from collector.archive.read import RUNNING
from collector.model.incident import StepStatus
from collector.model.out_of_memory import KILLED
from collector.model.units import counted
from collector.report.cause import EVENTS
from collector.report.chain import SEPARATOR, where
from collector.report.incident_words import gap_words, handover_words, over_budget_words
from collector.report.kept import TO_COME
from collector.report.story import LogLine, MemoryThen, Missing, Repeats, Story
from collector.report.text import age, columns, fitted, local, ordinal, rounded
from collector.report.wrapping import wrapped, wrapped_with_end

LABEL = 9
NOT_APPLICABLE = StepStatus.NOT_APPLICABLE
MIN_WIDTH = 40
WIDTH, HEIGHT = 80, 24
"""Of a terminal that has room for any incident, with a line to type in."""

NAME_SHOWN = 60
"""Columns of a function's name: those of C++ may take hundreds."""

SIGNATURE_SHOWN = 12
"""Columns: it has to fit beside how often it came."""

KEPT_TOGETHER = "\u00a0"
"""Stands for a space that no line ends at; what is not printable is in no text."""

SHM = "/dev/shm"  # noqa: S108 - a name to show
SHARED = "shared memory"
HEAD, BAD, QUIET = "head", "bad", ""


class ScreenLine(NamedTuple):
    """A line: a label, which may be empty, and a text; *mark* is `HEAD`, `BAD` or `QUIET`."""

    label: str
    text: str
    mark: str = QUIET

    def __str__(self) -> str:
        return f"{self.label:<{LABEL}}{self.text}" if self.mark != HEAD else self.text


class _Part(NamedTuple):
    label: str
    text: str
    most: int
    mark: str = QUIET
    end: str = ""


def screen(story: Story, *, width: int = 80, now: datetime | None = None) -> list[ScreenLine]:
    """
    Return the lines, each of at most *width* columns.

    Args:
        story: Of the incident.
        width: Of the terminal; at least 40 are used.
        now: For how long an incident under way has been so.
    """
    width = max(width, MIN_WIDTH)
    lines = _lines(story, width, now, kernel=2)
    return lines if len(lines) < HEIGHT else _lines(story, width, now, kernel=1)


def _lines(story: Story, width: int, now: datetime | None, *, kernel: int) -> list[ScreenLine]:
    lines = head(story, width)
    for part in _parts(story, width - LABEL, now, kernel=kernel):
        for number, text in enumerate(wrapped_with_end(part.text, part.end, width - LABEL, part.most)):
            lines.append(ScreenLine("" if number else part.label, text.replace(KEPT_TOGETHER, " "), part.mark))
    return lines


def head(story: Story, width: int) -> list[ScreenLine]:
    """Return the first one to three lines: what crashed, how, and when."""
    return list(_head(story, max(width, MIN_WIDTH)))


def _head(story: Story, width: int) -> Iterator[ScreenLine]:
    subject = story.subject
    pid = "" if subject.pid is None else f"[{subject.pid}]"
    named = subject.comm or subject.unit or ("process" if pid else story.host or "?")
    who = fitted(named, NAME_SHOWN // 2) + pid
    unit = f"unit {fitted(subject.unit, NAME_SHOWN)}" if subject.unit and subject.comm else ""
    when = local(story.at)
    whole = "   ".join(filter(None, (f"{who}  {story.cause.said}", unit, when)))
    if columns(whole) <= width:
        yield ScreenLine("", whole, HEAD)
        return
    for text in wrapped(f"{who}{KEPT_TOGETHER * 2}{story.cause.said}", width, 1 if width >= WIDTH else 2):
        yield ScreenLine("", text.replace(KEPT_TOGETHER, " "), HEAD)
    yield ScreenLine("when", fitted(SEPARATOR.join(filter(None, (when, unit))), width - LABEL))


def _parts(story: Story, width: int, now: datetime | None, *, kernel: int) -> Iterator[_Part]:
    chain, more = where(story)
    end = f"{SEPARATOR.strip()} {more}".replace(" ", KEPT_TOGETHER) if chain and more else ""
    yield _Part("where", chain or more, 2, end=end)
    yield _Part("why", _why(story), 3)
    yield _Part("limit", "" if story.cause.diagnosis else next(iter(story.limits), ""), 1)
    yield _Part("said", _said(story), 2)
    yield _Part("kernel", next((line.text for line in story.kernel_lines if line.matters), ""), kernel)
    yield _Part("memory", _memory(story, story.memory) if story.memory else "", 2)
    yield _Part("kept", _kept(story, now), 2)
    of = {status: [one for one in story.missing if one.status == status] for status in (NOT_APPLICABLE, TO_COME)}
    yield _Part("MISSING", _missing([one for one in story.missing if one.status not in of]), 3, BAD)
    yield _Part("without", _without(of[NOT_APPLICABLE], width), 1)
    yield _Part("brief", over_budget_words(story), 2)
    yield _Part("to come", ", ".join(one.step for one in of[TO_COME]), 1)
    yield _Part("again", SEPARATOR.join(filter(None, (_again(story.repeats), _signature(story)))), 1)
    yield _Part("labels", " ".join(f"{name}={text}" for name, text in story.labels.items()), 1)
    ends = (f"{story.id} {story.state}", gap_words(story), handover_words(story.handover))
    yield _Part("incident", ", ".join(filter(None, ends)), 2)
    yield _Part("next", SEPARATOR.join(command.replace(" ", KEPT_TOGETHER) for command in story.next), 3)


def _why(story: Story) -> str:
    """Return the diagnosis; of an event that has none, what its witness said, unless that follows anyway."""
    cause = story.cause
    if cause.diagnosis or cause.signal or cause.exit_status is not None or cause.result or not story.witnesses:
        told = EVENTS["oom_kill"] in cause.said
        return cause.diagnosis.removeprefix(KILLED).lstrip(":, ") if told else cause.diagnosis
    said = story.witnesses[0].said
    follows = said in story.cause.said or any(line.matters for line in story.kernel_lines)
    return "" if follows or said == "by hand" else said


def _said(story: Story) -> str:
    line: LogLine | None = next((line for line in story.said if line.matters), None)
    if line is None or line.text in story.cause.diagnosis:
        return ""
    return line.text if not line.who or line.who == story.subject.comm else f"{fitted(line.who, 30)}: {line.text}"


def _size(size_bytes: float) -> str:
    return rounded(size_bytes).replace(" ", KEPT_TOGETHER)


def _memory(story: Story, memory: MemoryThen) -> str:
    stall = "" if memory.stalled_percent is None else f", stall {memory.stalled_percent:.0f} %"
    total = f" of {_size(memory.total_bytes)}" if memory.total_bytes else ""
    before = ""
    if memory.before_bytes is not None and memory.before_s is not None:
        before = f"{age(memory.before_s)} before: {_size(memory.before_bytes)}"
    largest = max(story.kept.segments, key=lambda one: one.size_bytes, default=None)
    segment = f", {fitted(largest.name, 30)} {_size(largest.size_bytes)}" if largest and largest.size_bytes else ""
    where, amount = (SHM, memory.shm_bytes) if memory.shm_bytes is not None else (SHARED, memory.shared_bytes)
    shm = "" if amount is None else f"{where} {_size(amount)}{segment}"
    return "; ".join(filter(None, (f"{_size(memory.available_bytes)}{total} available{stall}", before, shm)))


def _kept(story: Story, now: datetime | None) -> str:
    kept = story.kept
    content = f" ({kept.core_content} only)" if kept.core_content not in {"", "full"} else ""
    taken = [one for one in kept.segments if one.artifact]
    shared = f"{len(taken)} of {len(kept.segments)} segments ({_size(sum(one.size_bytes for one in taken))})"
    core = f"core {_size(kept.core_bytes)}{content}" if kept.core else "no core"
    files = f"{counted(kept.files, 'file')} ({_size(kept.size_bytes)})"
    dumps = story.cause.signal not in {"", "SIGKILL"}
    parts = [core if kept.core or dumps else "", shared if kept.segments else "", files]
    if story.ended is None:
        return ", ".join([*filter(None, parts[1:]), *_progress(story, now)])
    return ", ".join(filter(None, parts))


def _progress(story: Story, now: datetime | None) -> Iterator[str]:
    """Yield what an incident under way is writing now, and how fast it is in all."""
    if story.writing_bytes:
        yield f"{_size(story.writing_bytes)} {'being written' if story.state == RUNNING else 'of a file in part'}"
    seconds = (now - story.at).total_seconds() if now and story.at else 0.0
    if story.state == RUNNING and seconds > 0:
        yield f"{_size((story.kept.size_bytes + story.writing_bytes) / seconds)}/s for {age(seconds)}"


def _missing(found: Sequence[Missing]) -> str:
    """Return the steps, those with the same reason together."""
    by_reason: dict[str, list[str]] = {}
    for one in found:
        by_reason.setdefault(one.reason or one.status, []).append(one.step)
    return "; ".join(f"{', '.join(steps)}: {reason}" for reason, steps in by_reason.items())


def _without(found: Sequence[Missing], width: int) -> str:
    """Return the steps, with their reasons if these fit in a line: all names say more than one reason and a half."""
    text = _missing(found)
    fits = columns(text) <= width or len({one.reason for one in found}) == 1
    return text if fits else f"{', '.join(one.step for one in found)} (why: --steps)"


def _again(repeats: Repeats | None) -> str:
    if repeats is None:
        return ""
    if repeats.count <= 1:
        text = "the first time" if repeats.by == "signature" else "the first of this program"
    else:
        of = "" if repeats.number == repeats.count else f" of {repeats.count}"
        since = (repeats.last - repeats.first).total_seconds() if repeats.last and repeats.first else 0.0
        what = "" if repeats.by == "signature" else " of this program"
        text = f"{ordinal(repeats.number)}{of}{what} in {age(since)}"
    return f"{text}, {repeats.others}" if repeats.others else text


def _signature(story: Story) -> str:
    return f"signature {fitted(story.signature, SIGNATURE_SHOWN)}" if story.signature else ""
