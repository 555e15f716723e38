"""What became of handing an incident over, in words."""

from __future__ import annotations

from collector.model.handover import HandoverState
from collector.report.story import ToldHandover


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
