"""What no marker can say, and which conditions therefore never hold."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.model.conditions import Conditions
from collector.model.knowledge import FACTS, NOTHING, Fact, Knowledge, misfit

KERNEL = Knowledge(facts=frozenset(FACTS), signals=frozenset({6, 11}))
TOLD = Knowledge(facts=frozenset(FACTS), free_text=True)
NAMES_ONLY = Knowledge(facts=frozenset({"comm"}))


@pytest.mark.parametrize(
    ("fact", "wanted", "hint"),
    [
        ("comm", "recommendations-engine", "write 'recommendations', or use `exe`"),
        ("comm", "recommendations-*", "shorten it, or use `exe`"),
        ("comm", "recommendation[sz]?", "shorten it, or use `exe`"),
        ("comm", "größenänderung", "write 'größenänderu', or use `exe`"),
        ("exe", "engine", "write '*/engine'"),
        ("exe", "usr/bin/engine", "write '*/usr/bin/engine'"),
        ("unit", "nginx", "write 'nginx.service'"),
        ("signal", "KILL", "remove it"),
    ],
)
def test_knowledge_tells_what_never_fits(fact: Fact, wanted: str, hint: str) -> None:
    """The kernel's command names have 15 bytes; executables and units are compared as a whole."""
    why = misfit(fact, wanted, [KERNEL])
    assert why is not None
    assert why.hint == hint


@pytest.mark.parametrize(
    ("fact", "wanted"),
    [
        ("comm", "recommendations"),
        ("comm", "recommendations*"),
        ("comm", "[rR]ecommendation*"),
        ("comm", "*"),
        ("comm", r"a\x1b[2Jmore-than-15"),
        ("exe", "/usr/bin/engine"),
        ("exe", "*/engine"),
        ("exe", "?usr*"),
        ("unit", "nginx.service"),
        ("unit", "nginx*"),
        ("unit", "run-*.scope"),
        ("unit", "/docker/*"),
        ("signal", "SIGSEGV"),
        ("signal", "6"),
    ],
)
def test_knowledge_allows_what_may_fit(fact: Fact, wanted: str) -> None:
    """No false alarms."""
    assert misfit(fact, wanted, [KERNEL]) is None


@pytest.mark.parametrize(
    ("fact", "wanted"), [("comm", "x" * 40), ("exe", "engine"), ("unit", "nginx"), ("signal", "9")]
)
def test_knowledge_of_a_supervisor_has_any_form(fact: Fact, wanted: str) -> None:
    """What is told in KEY=VALUE lines has whatever names the supervisor uses."""
    assert misfit(fact, wanted, [KERNEL, TOLD]) is None


@given(
    comm=st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=15).filter(
        lambda text: len(text.encode()) <= 15
    ),
    extra=st.text("ab*?[]!-", max_size=30),
    keep=st.integers(0, 15),
)
def test_knowledge_never_forbids_a_glob_that_matches(comm: str, extra: str, keep: int) -> None:
    """Whatever the glob: if it matches a name that the kernel can keep, nothing is said against it."""
    for glob in (comm[:keep] + extra, extra + comm[keep:], extra):
        if fnmatchcase(comm, glob):
            assert misfit("comm", glob, [KERNEL]) is None


@pytest.mark.parametrize(
    ("conditions", "sources", "reason"),
    [
        ({"unit": ("a.service",)}, {"kernel": NAMES_ONLY}, "kernel cannot tell the unit"),
        ({"unit": ("a.service",)}, {"manual": NOTHING, "kernel": NAMES_ONLY}, "kernel cannot tell the unit"),
        ({"unit": ("a.service",)}, {"kernel": NAMES_ONLY, "deaths": KERNEL}, None),
        ({"comm": ("a",), "exe": ("engine",)}, {"deaths": KERNEL}, "it is compared with the whole path"),
        ({"exe": ("engine", "/bin/engine")}, {"deaths": KERNEL}, None),
        ({"signal": ("KILL", "TERM")}, {"deaths": KERNEL}, "SIGKILL is none of the signals that are reported"),
        ({"signal": ("KILL", "SEGV")}, {"deaths": KERNEL}, None),
    ],
)
def test_conditions_know_whether_they_can_ever_hold(
    conditions: dict[str, tuple[str, ...]], sources: dict[str, Knowledge], reason: str | None
) -> None:
    """One alternative that can be met is enough; a fact that nobody can tell is not met."""
    never = Conditions(**conditions).never(sources)
    assert never is None if reason is None else never is not None and never.startswith(reason)
