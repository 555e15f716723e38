"""Which unit a process is of, as its cgroup tells."""

from __future__ import annotations

import pytest

from collector.host.process_identity import system_unit_of, unit_of

USER = "/user.slice/user-1000.slice/user@1000.service/app.slice"


@pytest.mark.parametrize(
    ("path", "unit", "system_unit"),
    [
        ("/system.slice/engine.service", "engine.service", "engine.service"),
        ("/engines.slice/engines-a.slice/engine.service/worker", "engine.service", "engine.service"),
        (f"{USER}/engine.service", "engine.service", None),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope", None),
        ("/machine.slice/box.scope/system.slice/engine.service", "engine.service", "box.scope"),
        ("/box/engine.service", "engine.service", None),
        ("/init.scope", "init.scope", "init.scope"),
        ("/", None, None),
        ("/..", None, None),
        ("/../../system.slice/engine.service", "engine.service", None),
    ],
)
def test_unit_of_the_system_is_not_one_of_a_user(path: str, unit: str | None, system_unit: str | None) -> None:
    """A user's manager, and whoever a cgroup is delegated to, may give a unit any name."""
    cgroup = f"0::{path}\n".encode()
    assert (unit_of(cgroup), system_unit_of(cgroup)) == (unit, system_unit)


@pytest.mark.parametrize("separator", ["\r", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"])
def test_unit_is_not_taken_from_the_name_of_a_cgroup(separator: str) -> None:
    """Only a line feed, which a cgroup's name cannot contain, ends a line."""
    cgroup = f"4:memory:/x{separator}0::/system.slice/engine.service\n0::{USER}/x.service\n".encode()
    assert (unit_of(cgroup), system_unit_of(cgroup)) == ("x.service", None)
