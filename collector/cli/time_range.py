"""``--since`` and ``--until``: ages, and times of the local calendar."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeVar

import click

from collector.cli.options import parsed
from collector.model.units import parse_seconds, quote

F = TypeVar("F", bound=Callable[..., Any])
DAYS = {"yesterday": -1, "today": 0, "tomorrow": 1}
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?", re.ASCII)


class TimeRange(NamedTuple):
    """From *since_s* on and before *until_s*, seconds since the epoch; a side may be open."""

    since_s: float = float("-inf")
    until_s: float = float("inf")

    @property
    def is_limited(self) -> bool:
        return self != TimeRange()

    def holds(self, at_s: float) -> bool:
        return self.since_s <= at_s < self.until_s


def time_range_options(function: F) -> F:
    """``--since WHEN`` and ``--until WHEN``; `time_range` has what they say."""
    since = click.option(
        "--since",
        metavar="WHEN",
        help="Since then, by the times shown: an age such as 1h or 14d, `2026-11-28 14:00`, 14:00, today, yesterday.",
    )
    until = click.option("--until", metavar="WHEN", help="Only before then.")
    return since(until(function))


def time_range(since: str | None, until: str | None) -> TimeRange:
    """Return the range between two moments as people write them; raise `UsageError` if one is none."""
    now_s = time.time()
    limits = {
        name: parsed(lambda text: moment_s(text, now_s), text)
        for name, text in (("since_s", since), ("until_s", until))
        if text is not None
    }
    return TimeRange(**limits)


def moment_s(text: str, now_s: float) -> float:
    """
    Return the moment, in seconds since the epoch, that *text* is at *now_s*.

    An age; ``now``, ``today``, ``yesterday`` or ``tomorrow``; a time of today; a date with or without a time in ISO
    8601, local if it has no offset; ``@`` and seconds since the epoch.

    Raises:
        ValueError: If it is none of these.
    """
    given = text.strip()
    try:
        if given == "now":
            return now_s
        if given.startswith("@"):
            return float(parse_seconds(given[1:]))
        today = datetime.fromtimestamp(now_s).replace(hour=0, minute=0, second=0, microsecond=0)
        if given in DAYS:
            return (today + timedelta(days=DAYS[given])).timestamp()
        if (clock := _CLOCK.fullmatch(given)) is not None:
            hour, minute, second = (int(part or 0) for part in clock.groups())
            return today.replace(hour=hour, minute=minute, second=second).timestamp()
        if re.match(r"\d{4}-", given):
            return datetime.fromisoformat(given).timestamp()
        return now_s - parse_seconds(given.removesuffix(" ago").lstrip("-"))
    except (ValueError, OverflowError) as exc:
        examples = "an age such as 1h, or a time such as `2026-11-28 14:00`, 14:00, today or yesterday"
        raise ValueError(f"{quote(text)} is not {examples}") from exc
