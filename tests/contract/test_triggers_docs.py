"""Every trigger has a page, and what the page shows is what the program takes."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from collector.config.load import examine
from collector.pipeline.compile import compile as compile_config
from collector.triggers.base import Trigger
from collector.triggers.registry import TRIGGERS

PAGES = Path(__file__).parents[2] / "docs" / "triggers"
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
    """Whoever copies the block from the page gets a trigger."""
    text = block(name)
    config = tmp_path / "collector.yaml"
    config.write_text("version: 1\n" + text + ("" if "pipelines:" in text else PIPELINES))
    plan = compile_config(examine(str(config)), TRIGGERS)
    assert [type(trigger.trigger) for trigger in plan.triggers] == [TRIGGERS[name]]
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
