"""What the tests are about: the names and texts in their code."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path


def words_of_tests(paths: Iterable[Path]) -> list[set[str]]:
    """Return the names and the strings in each test function of these files, its decorators included."""
    return [
        set(_words(node))
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


def words_of_files(paths: Iterable[Path]) -> list[set[str]]:
    """Return the names and the strings in each of these files: of its tests, and of what they share."""
    return [set(_words(ast.parse(path.read_text(encoding="utf-8")))) for path in paths]


def _words(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
