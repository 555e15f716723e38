"""The line that `systemctl status` shows."""

from __future__ import annotations

import pytest

from collector.daemon.status_line import status_line

WATCHING = {"cores": "watching"}
DEGRADED = {"cores": "watching", "deaths": "degraded: no"}
PROBLEM = "/etc/c.yaml:3:1: error: unknown\x1bkey\n/etc/c.yaml:9:1: error: another"


@pytest.mark.parametrize(("waiting", "problem", "collecting", "triggers", "line"), [
    (None, None, [], WATCHING, "watching"),
    (None, None, [], DEGRADED, "degraded: deaths"),
    (None, None, ["crash", "brief"], DEGRADED, "collecting: crash, brief; degraded: deaths"),
    (None, PROBLEM, [], WATCHING, "reload refused: /etc/c.yaml:3:1: error: unknown\\x1bkey; watching"),
    (2, None, [], WATCHING, "drained until a restart, or `collector drain --off`; 2 crashes wait"),
    (0, None, ["crash"], {}, "drained until a restart, or `collector drain --off`; 0 crashes wait; collecting: crash"),
])  # fmt: skip
def test_status_line_has_all_that_is_not_as_it_should_be(
    waiting: int | None, problem: str | None, collecting: list[str], triggers: dict[str, str], line: str
) -> None:
    """One line, whatever the file says: a line break would end the message to systemd."""
    assert status_line(waiting, problem, collecting, triggers) == line
