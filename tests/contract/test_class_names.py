"""One name, one thing: a reader who meets a class again must be able to trust that it is the same."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_class_names_stand_for_one_class_each() -> None:
    """No public name is defined in two modules."""
    places = defaultdict(list)
    for path in sorted((ROOT / "collector").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
