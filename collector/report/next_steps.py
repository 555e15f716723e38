"""The commands that fit an incident."""

from __future__ import annotations

from collector.report.story import Story

SHORT_ID = 6
"""Characters of the end of an id that name it."""


def next_steps(story: Story) -> tuple[str, ...]:
    """Return what to run next, the most useful first; only what this incident has something for."""
    short = story.id[-SHORT_ID:]
    if story.ended is None:
        return (f"collector show {short}", "collector status --watch")
    has_threads = story.trace is not None and max(story.threads, len(story.trace.threads)) > 1
    wanted = (
        (f"collector debug {short}", bool(story.kept.core)),
        (f"collector show {short} --stacks", has_threads),
        (f"collector report {short}", True),
        (f"collector export {short}", True),
        ("collector list --group", story.repeats is not None and story.repeats.count > 1),
    )
    return tuple(command for command, fits in wanted if fits)
