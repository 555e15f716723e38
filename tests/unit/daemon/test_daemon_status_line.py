"""The line that `systemctl status` shows."""

from __future__ import annotations

import pytest

from collector.daemon.status_line import status_line

WATCHING = {"cores": "watching"}
DEGRADED = {"cores": "watching", "deaths": "degraded: no"}
PROBLEM = "/etc/c.yaml:3:1: error: unknown\x1bkey\n/etc/c.yaml:9:1: error: another"


@pytest.mark.parametrize(("ending", "problem", "collecting", "triggers", "line"), [
    ("", None, [], WATCHING, "watching"),
    ("", None, [], DEGRADED, "degraded: deaths"),
    ("", None, ["crash", "brief"], DEGRADED, "collecting: crash, brief; degraded: deaths"),
    ("", PROBLEM, [], WATCHING, "reload refused: /etc/c.yaml:3:1: error: unknown\\x1bkey; watching"),
    ("stopping", None, [], {}, "stopping"),
    ("stopping", None, ["crash"], WATCHING, "stopping; collecting: crash"),
])  # fmt: skip
def test_status_line_has_all_that_is_not_as_it_should_be(
    ending: str, problem: str | None, collecting: list[str], triggers: dict[str, str], line: str
) -> None:
    """One line, whatever the file says: a line break would end the message to systemd."""
    assert status_line(ending, problem, collecting, triggers) == line
