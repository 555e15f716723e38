"""What every collector in the registry must fulfil."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import inspect
import os
import re
import sys
import types
import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from collecting import Collected, collect, context, manual
from tested import words_of_tests

from collector.archive import layout
from collector.collectors.base import Collector
from collector.collectors.registry import COLLECTORS
from collector.config.keys import keys_of, summary_of
from collector.model.artifact import Bulk, Footprint, NotApplicable
from collector.model.errors import StepError

ROOT = Path(__file__).parents[2]
MEDIA = {"text", "json", "jsonl", "binary"}
REQUIRED: dict[str, dict[str, Any]] = {"files": {"paths": ("/etc/host*",)}, "command": {"argv": ("/bin/ls", "/")}}
LARGEST_PEAK = 64 << 20
every = pytest.mark.parametrize("cls", COLLECTORS.values(), ids=list(COLLECTORS))


def page(cls: type[Collector]) -> Path:
    return ROOT / "docs" / "collectors" / f"{cls.name}.md"


def make(cls: type[Collector]) -> Collector:
    return cls(**REQUIRED.get(cls.name, {}))


@every
def test_collector_is_a_frozen_dataclass_with_keyword_only_fields(cls: type[Collector]) -> None:
    """It can be compared, pickled to a worker, and never changes."""
    parameters = cls.__dataclass_params__  # type: ignore[attr-defined]
    assert parameters.frozen
    assert hasattr(cls, "__slots__")
    assert all(field.kw_only for field in dataclasses.fields(cls))  # type: ignore[arg-type]
    assert make(cls) == make(cls)


@every
def test_collector_is_named_as_its_module(cls: type[Collector]) -> None:
    """One file or one package, one collector, one name."""
    assert cls.__module__ in (f"collector.collectors.{cls.name}", f"collector.collectors.{cls.name}.{cls.name}")
    assert isinstance(make(cls), Collector)


@every
def test_collector_imports_only_what_it_may(cls: type[Collector]) -> None:
    """The interface, the host and the model; never another collector."""
    source = inspect.getsource(importlib.import_module(cls.__module__))
    imported = set(re.findall(r"^from collector\.(\w+)(?:\.(\w+))?", source, re.MULTILINE))
    assert {package for package, _ in imported} <= {"collectors", "host", "model"}
    assert {module for package, module in imported if package == "collectors"} <= {"base", cls.name}


@every
def test_collector_fields_are_typed_described_and_have_defaults(cls: type[Collector]) -> None:
    """The fields are the YAML keys and the docstring is their reference; `REQUIRED` lists those without a default."""
    keys = keys_of(cls)
    hints = typing.get_type_hints(cls)
    assert summary_of(cls)
    for key in keys.values():
        assert key.description.endswith("."), f"{key.name} has no description"
        assert hints[key.attribute] is not Any
    needed = {field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING}  # type: ignore[arg-type]
    assert needed == set(REQUIRED.get(cls.name, {}))


@every
def test_collector_declares_its_footprint(cls: type[Collector]) -> None:
    """The gate decides on this."""
    assert isinstance(cls.footprint, Footprint)
    assert 0 < cls.footprint.peak_bytes <= LARGEST_PEAK
    assert 0 < cls.footprint.timeout_s <= 3600


@every
def test_collector_has_a_page_with_an_example_of_every_key(cls: type[Collector]) -> None:
    """The page has a YAML block, which another test compiles, and explains every key."""
    text = page(cls).read_text()
    steps = [
        step for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) for step in as_steps(yaml.safe_load(block))
    ]
    assert cls.name in [step["collector"] for step in steps]
    assert f"\nClass **{cls.footprint.step_class}**" in text
    shown = {key for step in steps if step["collector"] == cls.name for key in step.get("with", ())}
    for name in keys_of(cls):
        assert f"`{name}`" in text, f"{page(cls).name} does not explain `{name}`"
        assert name in shown, f"{page(cls).name} does not show `{name}`"
    headings = ("What it collects", "Why", "What it costs", "Configuration", "At three in the morning")
    for heading in (f"\n## {name}\n" for name in headings):
        assert heading in text, heading


def as_steps(content: Any) -> list[dict[str, Any]]:
    items = content if isinstance(content, list) else [content]
    return [item for item in items if isinstance(item, dict) and "collector" in item]


@every
def test_collector_has_a_test_of_its_own(cls: type[Collector]) -> None:
    """For what it promises beyond this contract."""
    files = ROOT.glob(f"tests/integration/test_collectors_{cls.name}.py")
    assert any(cls.__name__ in words for words in words_of_tests(files))


@every
def test_collector_that_has_nothing_of_nobody_says_so(cls: type[Collector]) -> None:
    """A step without a byte is not ok because nobody was named: it would be evidence that nothing was there."""
    collected = collect(make(cls), context(manual()))
    nothing = not any(taken.data for taken in collected.artifacts.values())
    assert not nothing or collected.not_applicable or collected.missing or collected.error


def test_collector_modules_are_those_of_the_registry() -> None:
    """A collector without its registry line would never be found."""
    modules = {path.stem for path in (ROOT / "collector" / "collectors").iterdir() if not path.name.startswith("__")}
    assert modules - {"base", "registry"} == set(COLLECTORS)


def test_collector_pages_are_those_of_the_registry() -> None:
    """No page without a collector."""
    assert {path.stem for path in (ROOT / "docs" / "collectors").glob("*.md")} == set(COLLECTORS)


def check(collected: Collected) -> None:
    """Check everything that was collected against the rules for artifacts."""
    for path, taken in collected.artifacts.items():
        artifact = taken.artifact
        assert layout.is_artifact_path(f"step/{path}"), path
        assert artifact.media in MEDIA
        assert artifact.source is None or artifact.source.path.isprintable()
        if artifact.media in {"json", "jsonl"}:
            assert not isinstance(artifact.body, Bulk)
            documents = taken.data.splitlines() if artifact.media == "jsonl" else [taken.data]
            assert all(msgspec.json.decode(document) is not None for document in documents)
    if collected.error is not None:
        assert str(collected.error)


@every
def test_collector_on_this_machine_yields_valid_artifacts_and_leaks_nothing(cls: type[Collector]) -> None:
    """Valid paths, bounded pieces (`collecting` checks them), no descriptor left open."""
    gc.collect()  # what earlier tests dropped must not close meanwhile
    before = os.listdir("/proc/self/fd")
    collected = collect(make(cls), context(manual(os.getpid())))
    check(collected)
    assert collected.artifacts or collected.error or collected.not_applicable
    assert set(os.listdir("/proc/self/fd")) <= set(before)


@every
def test_collector_on_an_empty_machine_raises_nothing_but_a_step_error(cls: type[Collector], tmp_path: Path) -> None:
    """Empty /proc and /dev, no such process: less evidence, or a step error with its reason."""
    for name in ("proc", "sys", "dev", "etc"):
        (tmp_path / name).mkdir()
    check(collect(make(cls), context(manual(42), root=str(tmp_path))))


@every
def test_collector_stopped_halfway_leaves_nothing_open(cls: type[Collector]) -> None:
    """A worker may stop at any artifact: a full disk, a bug elsewhere."""
    gc.collect()
    before = os.listdir("/proc/self/fd")
    steps = make(cls).collect(context(manual(os.getpid()), timeout_s=3.0))
    with contextlib.suppress(StepError, NotApplicable):  # without root some may read nothing
        artifact = next(steps)
        if isinstance(artifact.body, Bulk):
            os.close(artifact.body.fd)
        del artifact
    steps.close()  # type: ignore[attr-defined]
    assert set(os.listdir("/proc/self/fd")) <= set(before)


def test_guide_to_writing_a_collector_has_a_working_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's example is a collector, and does what its own test says."""
    text = (ROOT / "docs" / "writing-a-collector.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    module = types.ModuleType("key_users")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code[1], "writing-a-collector.md", "exec"), module.__dict__)
    example = module.KeyUsers()
    assert isinstance(example, Collector)
    source = tmp_path / module.SOURCE.lstrip("/")
    source.parent.mkdir(parents=True)
    source.write_bytes(b"0: 3 2/2\n")
    assert collect(example, context(root=str(tmp_path)))["key_users"] == b"0: 3 2/2\n"
