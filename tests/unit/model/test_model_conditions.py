"""Conditions on a marker."""

from __future__ import annotations

import pytest

from collector.model.conditions import Conditions
from collector.model.marker import Marker, MarkerKind


def marker(**known: object) -> Marker:
    return Marker(kind=MarkerKind.CORE_FILE, trigger="cores", at_s=0.0, **known)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("conditions", "known", "reason"),
    [
        ({}, {}, None),
        ({"comm": ("post*", "mysqld")}, {"comm": "postgres"}, None),
        ({"comm": ("post*",)}, {"comm": "bash"}, "comm is 'bash', not post*"),
        ({"comm": ("*",)}, {}, "comm is unknown, not *"),
        ({"exe": ("/usr/*",), "signal": ("6", "SEGV")}, {"exe": "/usr/bin/a", "signal": 11}, None),
        (
            {"exe": ("/usr/*",), "signal": ("6", "SEGV")},
            {"exe": "/usr/bin/a", "signal": 9},
            "signal is SIGKILL, not SIGABRT or SIGSEGV",
        ),
        ({"signal": ("11",)}, {}, "signal is unknown, not SIGSEGV"),
        ({"trigger": ("manual",)}, {}, "trigger is 'cores', not manual"),
        ({"trigger": ("manual",)}, {"joined": ("exits",)}, "trigger is 'cores' and 'exits', not manual"),
        ({"trigger": ("exits",)}, {"joined": ("exits",)}, None),
        ({"unit": ("a@*.service",)}, {"unit": "a@1.service"}, None),
    ],
)
def test_conditions_hold_or_say_why_not(
    conditions: dict[str, object], known: dict[str, object], reason: str | None
) -> None:
    """All conditions must hold; what is not known does not match."""
    assert Conditions(**conditions).holds(marker(**known)) == reason  # type: ignore[arg-type]


def test_conditions_treat_names_as_data() -> None:
    """A process named like a glob or a terminal escape matches as text and is shown escaped."""
    assert Conditions(comm=("a[b]",)).holds(marker(comm="a[b]")) is not None
    assert "\x1b" not in str(Conditions(comm=("x",)).holds(marker(comm="\x1b[2J")))
