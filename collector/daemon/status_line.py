"""The line that ``systemctl status`` shows of the daemon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from collector.model.text import printable

LENGTH = 400
PROBLEM_LENGTH = 200


def status_line(
    waiting: int | None,
    problem: str | None,
    collecting: Sequence[str],
    triggers: Mapping[str, str],
    faults: Sequence[str] = (),
) -> str:
    """
    Return one line with all that is not as it should be, and what is being done.

    Args:
        waiting: How many crashes wait while the daemon is drained; ``None`` while it is not.
        problem: Why the last reload was refused.
        collecting: The pipelines of the incidents under way.
        triggers: The state of each trigger, as `TriggerSet.states` has them.
        faults: What else is wrong.
    """
    degraded = [trigger for trigger, state in triggers.items() if state != "watching"]
    parts = (
        "" if waiting is None else f"drained until a restart, or `collector drain --off`; crashes waiting: {waiting}",
        f"reload refused: {printable(problem.partition(chr(10))[0], limit=PROBLEM_LENGTH)}" if problem else "",
        f"collecting: {', '.join(collecting)}" if collecting else "",
        f"degraded: {', '.join(degraded)}" if degraded else "",
        *faults,
    )
    doing = "" if waiting is not None or collecting or degraded or faults else "watching"
    return "; ".join(filter(None, (*parts, doing)))[:LENGTH]
