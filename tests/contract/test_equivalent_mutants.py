from __future__ import annotations

import importlib
import inspect

import pytest
from mutants import mutants
from mutations import EQUIVALENT, MODULES

ROWS = [line.split("\t") for line in EQUIVALENT.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("module", sorted({row[0] for row in ROWS}))
def test_equivalent_mutants_are_mutants_of_today(module: str) -> None:
    """A change that is excused, with a reason, is one that `make mutate` still makes."""
    assert module in {known for known, *_ in MODULES.values()}
    made = mutants(inspect.getsource(importlib.import_module(module)), module)
    excused = [row for row in ROWS if row[0] == module]
    assert {tuple(row[1:4]) for row in excused} <= {(one.name, one.before, one.after) for one in made}
    assert all(len(row) == 5 and row[4] for row in excused)
