"""What came between an incident and its being whole, and what became of handing it over, in words."""

from __future__ import annotations

from collector.model.handover import HandoverState
from collector.report.story import Story, ToldHandover
from collector.report.text import age


def over_budget_words(story: Story) -> str:
    """Return the budget that the crash exceeded, and what was left out for that reason; empty if it did not."""
    without = f", so without {', '.join(story.left_out)}" if story.left_out else ""
    return f"over budget: {story.over_budget}{without}" if story.over_budget else ""


def gap_words(story: Story) -> str:
    """Return how long nobody collected, if the incident was cut off and continued; empty if it was not."""
    if story.gap_s is None:
        return ""
    return f"cut off, and continued {f'after {age(story.gap_s)}' if story.gap_s >= 1 else 'within a second'}"


def handover_words(told: ToldHandover | None) -> str:
    """Return them; empty if the incident is not to be handed over."""
    if told is None:
        return ""
    tries = "1 try" if told.tries == 1 else f"{told.tries} tries"
    after = f" after {tries}" if told.tries else ""
    why = f": {told.reason}" if told.reason else ""
    if told.state == HandoverState.DONE:
        return f"handed over{after if told.tries > 1 else ''}"
    if told.state == HandoverState.FAILED:
        return f"NOT HANDED OVER{after}{why}"
    return f"to be handed over{f' again{after}{why}' if told.tries or why else ''}"
