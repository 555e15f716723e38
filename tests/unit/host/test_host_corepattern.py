"""Names of cores, by the pattern that made them."""

from __future__ import annotations

from pathlib import Path

import pytest

from collector.host.corepattern import CoreName, CorePattern, core_pattern
from collector.host.files import Host


@pytest.mark.parametrize(
    ("pattern", "uses_pid", "path", "expected"),
    [
        ("core", False, "/srv/core", CoreName()),
        ("core", True, "/srv/core.7", CoreName(inner_pid=7)),
        ("core.%p", True, "/srv/core.7", CoreName(inner_pid=7)),
        ("core.%P.%p", False, "/srv/core.7000.3", CoreName(pid=7000, inner_pid=3)),
        ("/c/core.%e.%p.%t", False, "/c/core.a.b.1.2.7.99", CoreName(inner_pid=7, comm="a.b.1.2", at_s=99)),
        ("/c/%E-%s-%u", False, "/c/!usr!bin!engine-11-1000", CoreName(exe="/usr/bin/engine", signal=11, uid=1000)),
        ("/c/%e/core.%p", False, "/c/engine/core.7", CoreName(inner_pid=7, comm="engine")),
        ("/c/%e/core.%p", False, "/mnt/elsewhere/core.7", CoreName(inner_pid=7)),
        ("%%core%%.%p", False, "/c/%core%.7", CoreName(inner_pid=7)),
        ("core.%p.%c", False, "/c/core.7.18446744073709551615", CoreName(inner_pid=7)),
        ("core.%q.%p%", False, "/c/core..7", CoreName(inner_pid=7)),
        ("core.%p-%p", False, "/c/core.7-7", CoreName(inner_pid=7)),
        ("core.%p-%p", False, "/c/core.7-8", None),
        ("core.%p", False, "/c/core.x", None),
        ("core.%p", False, "/c/core.99999999999", None),
        ("core", False, "/c/core.7", None),
        ("|/usr/lib/systemd/systemd-coredump %P", True, "/c/core.7", None),
        ("@@/run/coredump.socket", False, "/c/core.7", None),
        ("", False, "/c/core", None),
    ],
)
def test_core_pattern_reads_a_name(pattern: str, uses_pid: bool, path: str, expected: CoreName | None) -> None:
    """Each specifier is found where the kernel puts it; a pipe or a socket creates no file."""
    assert CorePattern(pattern, uses_pid=uses_pid).match(path) == expected


@pytest.mark.parametrize(
    ("pattern", "host_name", "name", "inner_pid"),
    [
        ("core.%e.%p.%h.%t", "10.2.3.17", "core.engine.1234.10.2.3.17.1700000000", 1234),
        ("core.%e.%p.%h.%t", "web-1", "core.engine.1234.web-1.1700000000", 1234),
        ("core.%e.%p.%h.%t", "web-1", "core.engine.1234.db-2.1700000000", 1234),  # a container's host name
        ("core.%e.%p.%h.%t", "web-1", "core.engine.1234.10.2.3.17.1700000000", None),
        ("core.%e.%p.%h.%t", "web-1", "core.5.1234.web-1.17.1700000000", 1234),
        ("core.%h.%p.%e", "10", "core.10.7.5.engine", 7),
        ("core.%h.%p.%e", "web", "core.10.7.5.engine", None),
        ("core.%e.%p.%f", "", "core.a.1.2.b", None),
        ("core.%e.%p.%f", "", "core.a.1.b", 1),
        ("core%e%p", "", "coreengine12", None),
        ("core.%e.%u.%p.%h", "", "core.a.1.2.3.4", None),
        ("core.%e.%p.%u.%h", "", "core.a.1.2.3.4", None),
        ("core.%p.%u.%e", "", "core.1.2.3.4", 1),
    ],
)
def test_core_pattern_does_not_guess(pattern: str, host_name: str, name: str, inner_pid: int | None) -> None:
    """A name that can be read as naming two processes names none; the host's own name is no guess."""
    core = CorePattern(pattern, uses_pid=False, host_name=host_name).match(f"/c/{name}")
    assert core is not None
    assert core.inner_pid == inner_pid


def test_core_pattern_matches_hostile_names_in_bounded_time() -> None:
    """A name that could match in many ways takes a bounded amount of work."""
    pattern = CorePattern("%e-%h-%f-%p", uses_pid=False)
    assert pattern.match("/c/" + "-" * 250 + "x") is None  # or the test times out


def test_core_pattern_in_force_is_the_kernels(tmp_path: Path) -> None:
    """It is read each time, because an administrator may change it."""
    kernel = tmp_path / "proc/sys/kernel"
    kernel.mkdir(parents=True)
    (kernel / "core_uses_pid").write_text("1\n")
    for text in ("core.%e\n", "/c/%e\n"):
        (kernel / "core_pattern").write_text(text)
        assert core_pattern(Host(root=str(tmp_path))).text == text.strip()


def test_core_pattern_matches_nothing_where_it_is_unknown(tmp_path: Path) -> None:
    """A container without that file still watches for other writers' cores."""
    assert core_pattern(Host(root=str(tmp_path))).match("/c/core.7") is None
