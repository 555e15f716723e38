"""Every event that is logged has its kind: priorities, MESSAGE_ID and a sentence, and is in the documentation."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from structlog.testing import capture_logs

from collector.daemon.journal import log_event
from collector.daemon.log_kinds import KINDS, priority_of
from collector.daemon.sentences import sentence
from collector.model.incident import IncidentState, StepEnd, StepStatus
from collector.runner import events

ROOT = Path(__file__).parents[2]
EVENT = re.compile(r"[a-z]+\.[a-z]+")
END = StepEnd(id="memory", collector="memory", status=StepStatus.OK)
OF_RUNS = (
    events.EvidenceRead(incident="i", steps=("a",), duration_s=1.0),
    events.IncidentOpened(incident="i", path="/p", steps=("a",)),
    events.StepStarted(incident="i", step="a"),
    events.StepWaiting(incident="i", step="a", reason="r"),
    events.StepQueued(incident="i", step="a", reason="r"),
    events.StepProgressed(incident="i", step="a", size_bytes=1),
    events.StepFinished(incident="i", end=END, artifacts=1, size_bytes=1),
    events.StepFinished(
        incident="i", end=StepEnd(id="a", collector="a", status=StepStatus.ABANDONED), artifacts=0, size_bytes=0
    ),
    events.JournalFailed(incident="i", reason="r"),
    events.IncidentPruned(incident="i", reason="r"),
    *(
        events.IncidentArchived(incident="i", path="/p", state=state, artifacts=1, size_bytes=1, duration_s=1.0)
        for state in IncidentState
    ),
    events.IncidentRefused(incident="i", reason="r", exit_code=73),
    events.HandoverDone(incident="i", tries=1, duration_s=0.1),
    events.HandoverFailed(incident="i", reason="r", retry_s=None),
)


VALUES = {"running": ["xy", "xz"], "count": 2, "digests": 2, "duration_s": 0.5, "size_bytes": 2}
"""Of the fields whose type matters."""


def logged() -> Iterator[tuple[str, str, dict[str, Any] | None]]:
    """Yield event, level and fields of every call that logs; ``None`` for fields that only show when it runs."""
    for path in (ROOT / "collector").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        chosen = [
            (target.id, node)
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and levels_in(node.value)
            for target in node.targets
            if isinstance(target, ast.Name)
        ]
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and (event := event_of(call)):
                names = [keyword.arg for keyword in call.keywords]
                fields = None if None in names else dict.fromkeys(filter(None, names), "x")
                # Else by `write = log.warning if ... else log.error`, above it.
                ways: list[ast.AST] = [call.func] if levels_in(call.func) else []
                if isinstance(call.func, ast.Name):
                    ways = [way for name, way in chosen if name == call.func.id and way.lineno < call.lineno][-1:]
                yield from ((event, level, fields) for way in ways for level in levels_in(way))


def levels_in(tree: ast.AST) -> list[str]:
    return [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "log"
        and node.attr != "bind"
    ]


def event_of(call: ast.Call) -> str | None:
    first = call.args[0] if call.args else None
    text = first.value if isinstance(first, ast.Constant) else None
    return text if isinstance(text, str) and EVENT.fullmatch(text) else None


def of_runs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the same of what the runner reports."""
    assert {type(event) for event in OF_RUNS} == set(get_args(events.AnyEvent))
    with capture_logs() as lines:
        for event in OF_RUNS:
            log_event(event)
    for line in lines:
        yield line.pop("event"), line.pop("log_level"), line


def test_every_event_has_a_kind_with_its_level_and_a_sentence_of_its_fields() -> None:
    """So that `journalctl -p warning` shows what matters, and nothing is said with a question mark."""
    found = [*logged(), *of_runs()]
    for event, level, fields in found:
        assert event in KINDS, event
        assert priority_of(event, level) in KINDS[event].priorities, (event, level)
        if fields is not None:
            said = sentence(event, fields | {name: VALUES[name] for name in VALUES & fields.keys()})
            assert "?" not in said, said
            assert ", y" not in said, "a text was taken for a list of texts"
    used = {(event, priority_of(event, level)) for event, level, _ in found} | {("log.dropped", 4)}
    assert used == {(event, priority) for event, kind in KINDS.items() for priority in kind.priorities}


def test_message_ids_are_all_different_and_none_is_systemds() -> None:
    """`coredumpctl` lists what has systemd-coredump's."""
    ids = [kind.message_id for kind in KINDS.values()]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)
    assert "fc2e22bc6ee647b6b90729ab34a250b1" not in ids


@pytest.mark.parametrize("event", KINDS)
def test_docs_say_what_each_event_means(event: str) -> None:
    """With its priorities."""
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    (line,) = [line for line in page.splitlines() if line.startswith("| ") and f"`{event}`" in line.split("|")[1]]
    priorities = ", ".join(priority.name.lower() for priority in KINDS[event].priorities)
    assert line.split("|")[2].strip() == priorities


def test_message_catalog_is_current() -> None:
    """`journalctl -x` says what the page says; `make docs` makes it so."""
    spec = importlib.util.spec_from_file_location("message_catalog", ROOT / "docs" / "message_catalog.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert made.CATALOG.read_text(encoding="utf-8") == made.catalog(), "run `make docs`"
    assert KINDS["config.refused"].message_id in made.catalog()
