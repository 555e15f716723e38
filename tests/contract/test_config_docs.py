"""Every YAML block in the documents compiles."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from collector.cli.crash_tests import read_tests
from collector.collectors.registry import COLLECTORS
from collector.pipeline.compile import prepare
from collector.triggers.registry import TRIGGERS

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "config" / "collector.yaml"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^(?P<indent> *)```ya?ml *\n(?P<text>.*?)^(?P=indent)``` *$", re.MULTILINE | re.DOTALL)


def blocks() -> Iterator[Any]:
    for page in PAGES:
        text = page.read_text()
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start()) + 2
            yield pytest.param(textwrap.dedent(match["text"]), id=f"{page.relative_to(ROOT)}:{line}")


def as_drop_in(block: str) -> str:
    """A list of steps or triggers, as pages about them show it, put in its place."""
    content = yaml.safe_load(block)
    if isinstance(content, dict) and "collector" in content:
        content = [content]
    if not isinstance(content, list):
        return block
    place = "triggers:\n" if "type" in content[0] else "pipelines:\n  crash:\n    steps:\n"
    item = yaml.safe_dump(content, default_flow_style=None)
    return place + textwrap.indent(item, "      ")


@pytest.mark.parametrize("block", list(blocks()))
def test_config_block_of_the_documents_compiles(block: str, tmp_path: Path) -> None:
    """A block is a whole file if it has a version and pipelines, or crashes; else a drop-in for the shipped one."""
    main = tmp_path / "collector.yaml"
    content = yaml.safe_load(block)
    if isinstance(content, dict) and "crashes" in content:
        main.write_text(block)
        assert read_tests(str(main), prepare(str(SHIPPED), TRIGGERS))
        return
    if isinstance(content, dict) and {"version", "pipelines"} <= content.keys():
        main.write_text(block)
    else:
        main.write_text(SHIPPED.read_text())
        (tmp_path / "conf.d").mkdir()
        (tmp_path / "conf.d" / "block.yaml").write_text(as_drop_in(block))
    prepare(str(main), TRIGGERS)


def test_config_reference_has_examples() -> None:
    """The test above has something to compile."""
    assert sum(1 for _ in blocks()) >= 4


@pytest.mark.parametrize(
    "kind", [*COLLECTORS.values(), *TRIGGERS.values()], ids=lambda kind: f"{kind.__module__.split('.')[1]}:{kind.name}"
)
def test_config_option_is_described(kind: type) -> None:
    """Each option of a collector or a trigger is documented: its docstring is the reference."""
    from collector.config.keys import keys_of, summary_of

    assert summary_of(kind)
    assert [key.name for key in keys_of(kind).values() if not key.description] == []
