"""Every trigger has a page and a test, and what the pages show works."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path

import pytest
from tested import words_of_files

from collector.model.knowledge import Knowledge
from collector.pipeline.compile import prepare
from collector.triggers.base import Trigger
from collector.triggers.registry import TRIGGERS

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "triggers"
SHARED = (
    "base",
    "core_identity",
    "catch_up",
    "core_names",
    "core_reader",
    "dir_reader",
    "directories",
    "directory",
    "directory_search",
    "directory_table",
    "facts",
    "identities",
    "kernel_catalogue",
    "kernel_lines",
    "kernel_reports",
    "manual",
    "own_links",
    "process_globs",
    "registry",
    "unseen",
    "reported_cores",
    "scans",
    "socket_name",
)
"""Modules that are not triggers."""

PIPELINES = """
pipelines:
  crash: {steps: [{id: memory, collector: proc_files}]}
"""


def block(name: str) -> str:
    found = re.search(r"^```yaml\n(.*?)^```", (PAGES / f"{name}.md").read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def test_triggers_have_a_page_each() -> None:
    """No trigger without one, no page without a trigger."""
    assert {page.stem for page in PAGES.glob("*.md")} == set(TRIGGERS)


@pytest.mark.parametrize("name", TRIGGERS)
def test_trigger_page_shows_every_key_and_compiles(name: str, tmp_path: Path) -> None:
    """A block copied from the page is a valid trigger."""
    text = block(name)
    config = tmp_path / "collector.yaml"
    config.write_text("version: 1\n" + text + ("" if "pipelines:" in text else PIPELINES))
    plan = prepare(str(config), TRIGGERS)
    assert [type(trigger.trigger) for trigger in plan.triggers] == [TRIGGERS[name]]
    assert all(isinstance(trigger.trigger.knows, Knowledge) for trigger in plan.triggers)
    for field in dataclasses.fields(TRIGGERS[name]):  # type: ignore[arg-type]
        assert re.search(rf"^\s+{field.name}:", text, re.MULTILINE), field.name


@pytest.mark.parametrize("cls", TRIGGERS.values(), ids=TRIGGERS)
def test_trigger_is_what_the_registry_promises(cls: type[Trigger]) -> None:
    """A frozen, slotted, keyword-only dataclass with its name, and a docstring that names every field."""
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert "__slots__" in vars(cls)
    assert cls.__doc__
    for field in dataclasses.fields(cls):
        assert field.kw_only
        assert f"{field.name}:" in cls.__doc__


def test_trigger_modules_are_those_of_the_registry() -> None:
    """A trigger, a module or a package, without its registry line would never be found."""
    where = ROOT / "collector" / "triggers"
    modules = {path.stem for path in where.glob("*.py")} | {path.parent.name for path in where.glob("*/__init__.py")}
    assert modules - {"__init__", *SHARED} == set(TRIGGERS)


@pytest.mark.parametrize("cls", TRIGGERS.values(), ids=TRIGGERS)
def test_trigger_has_a_test(cls: type[Trigger]) -> None:
    """What it promises beyond this contract is tested with the real thing."""
    files = (ROOT / "tests" / "integration").glob("test_triggers_*.py")
    assert any(cls.__name__ in words for words in words_of_files(files))


def test_guide_to_triggers_works_as_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its module keeps the contract, and its test passes."""
    module, test = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "docs" / "writing-a-trigger.md").read_text(), re.M | re.S
    )
    (tmp_path / "kernel_taint.py").write_text(module)
    imports = (
        "from pathlib import Path\nfrom kernel_taint import KernelTaint\nfrom watching import opened, trigger_context\n"
    )
    (tmp_path / "guide_to_triggers.py").write_text(imports + test)
    monkeypatch.syspath_prepend(str(tmp_path))
    trigger = importlib.import_module("kernel_taint").KernelTaint
    test_trigger_is_what_the_registry_promises(trigger)
    importlib.import_module("guide_to_triggers").test_kernel_taint_is_reported_once(tmp_path)
