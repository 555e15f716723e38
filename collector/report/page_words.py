"""Facts of a story as the head of its page words them."""

from __future__ import annotations

from collections.abc import Iterator

from collector.model.units import counted, size
from collector.report.incident_words import gap_words, handover_words, over_budget_words
from collector.report.page_text import span
from collector.report.story import Cause, Kept, MemoryThen, Repeats, Story


def head_facts(story: Story) -> Iterator[tuple[str, str]]:
    """Yield names and texts of what is known; the time comes before them."""
    subject, cause = story.subject, story.cause
    known = (
        ("Unit", subject.unit),
        ("Program", subject.exe),
        ("Signal", _signal(cause)),
        ("Exit status", "" if cause.exit_status is None else str(cause.exit_status)),
        ("Event", cause.event),
        ("User", "" if subject.uid is None else f"uid {subject.uid}"),
        ("Owner", story.owner),
        ("Labels", " ".join(f"{name}={text}" for name, text in story.labels.items())),
        ("Machine", story.machine_id),
        ("Boot", story.boot_id),
        ("Kernel", story.kernel),
        ("Memory", _memory(story.memory)),
        ("Kept", f"{_kept(story.kept)}; the incident is {story.state}"),
        ("Brief", over_budget_words(story)),
        ("Gap", gap_words(story)),
        ("Handover", handover_words(story.handover)),
        ("Again", _repeats(story.repeats)),
        ("Signature", story.signature),
        ("Build-id", story.build_id),
    )
    return ((name, text) for name, text in known if text)


def _signal(cause: Cause) -> str:
    at = f"at {cause.address}" if cause.address else ""
    return " ".join(filter(None, (cause.signal, f"({cause.code})" if cause.code else "", at)))


def _memory(memory: MemoryThen | None) -> str:
    if memory is None:
        return ""
    of = f" of {size(memory.total_bytes)}" if memory.total_bytes else ""
    parts = [f"{size(memory.available_bytes)}{of} available"]
    if memory.before_s is not None and memory.before_bytes is not None:
        parts.append(f"{span(memory.before_s)} before: {size(memory.before_bytes)}")
    if memory.stalled_percent is not None:
        parts.append(f"stalled {round(memory.stalled_percent, 1):g} % of the time")
    if memory.shm_bytes is not None:
        parts.append(f"{size(memory.shm_bytes)} in /dev/shm")
    if memory.shared_bytes is not None:
        parts.append(f"{size(memory.shared_bytes)} in shared memory")
    return "; ".join(parts)


def _kept(kept: Kept) -> str:
    core = f", with a core of {size(kept.core_bytes)}" if kept.core else ""
    taken = sum(1 for segment in kept.segments if segment.artifact)
    segments = f", {taken} of {len(kept.segments)} segments" if kept.segments else ""
    return f"{counted(kept.files, 'file')}, {size(kept.size_bytes)}{core}{segments}"


def _repeats(repeats: Repeats | None) -> str:
    if repeats is None or repeats.count + repeats.recorded <= 1:
        return ""
    more = f"; {repeats.others}" if repeats.others else ""
    return f"number {repeats.number} of {repeats.count} with the same {repeats.by}{more}"
