"""The line that `systemctl status` shows."""

from __future__ import annotations

import pytest

from collector.daemon.status_line import status_line

WATCHING = {"cores": "watching"}
DEGRADED = {"cores": "watching", "deaths": "degraded: no"}
DRAINED = "drained until a restart, or `collector drain --off`; crashes waiting: "
PROBLEM = "/etc/c.yaml:3:1: error: unknown\x1bkey\n/etc/c.yaml:9:1: error: another"


@pytest.mark.parametrize(("waiting", "problem", "collecting", "triggers", "line"), [
    (None, None, [], WATCHING, "watching"),
    (None, None, [], DEGRADED, "degraded: deaths"),
    (None, None, ["crash", "brief"], DEGRADED, "collecting: crash, brief; degraded: deaths"),
    (None, PROBLEM, [], WATCHING, "reload refused: /etc/c.yaml:3:1: error: unknown\\x1bkey; watching"),
    (2, None, [], WATCHING, f"{DRAINED}2"),
    (0, None, ["crash"], {}, f"{DRAINED}0; collecting: crash"),
])  # fmt: skip
def test_status_line_has_all_that_is_not_as_it_should_be(
    waiting: int | None, problem: str | None, collecting: list[str], triggers: dict[str, str], line: str
) -> None:
    """One line, whatever the file says: a line break would end the message to systemd."""
    assert status_line(waiting, problem, collecting, triggers) == line


def test_status_line_is_not_watching_without_what_it_takes() -> None:
    """Who sees "watching" looks no further."""
    assert status_line(None, None, [], WATCHING, ["no worker can be forked"]) == "no worker can be forked"
