"""Compilation: what a file compiles to, and what is in force."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from collector.collectors.core.core import Core, KeepCore
from collector.collectors.dmesg import Dmesg
from collector.collectors.shm.shm import From, Shm
from collector.model.diagnostics import Severity
from collector.model.errors import ConfigError
from collector.model.pressure import Policy, StepClass
from collector.pipeline.compile import Plan, prepare
from collector.pipeline.effective import as_yaml, effective, origins, values
from collector.pipeline.steps import Step
from collector.triggers.base import Trigger
from collector.triggers.registry import TRIGGERS

SHIPPED = sorted((Path(__file__).parents[3] / "config").glob("*.yaml"))
PIPELINE = "version: 1\npipelines:\n  crash:\n    steps:\n"


def plan_of(directory: Path, text: str) -> Plan[Trigger]:
    (directory / "c.yaml").write_text(text, encoding="utf-8")
    return prepare(str(directory / "c.yaml"), TRIGGERS)


def first_step(directory: Path, step: str, more: str = "") -> Step:
    return plan_of(directory, f"{PIPELINE}      - {step}\n{more}").pipelines["crash"].steps[0]


def test_compile_of_the_shipped_file() -> None:
    """The default collects what vanishes first, and bulk last."""
    plan = prepare(None, TRIGGERS)
    steps = plan.pipelines["crash"].steps
    light = ["memory", "processes", "process", "cgroup", "network", "block", "kernel_log"]
    assert [step.id for step in steps] == [*light, "journal", "core", "segments"]
    shm = steps[-1].collector
    assert isinstance(shm, Shm)
    assert (shm.from_, shm.max_total, steps[-1].timeout_s) == (From.CRASHED_PROCESS, 64 << 30, 600.0)
    assert {step.id: step.budget.step_class for step in steps} == {
        "memory": StepClass.LIGHT,
        "processes": StepClass.LIGHT,
        "process": StepClass.LIGHT,
        "cgroup": StepClass.LIGHT,
        "network": StepClass.LIGHT,
        "block": StepClass.LIGHT,
        "kernel_log": StepClass.LIGHT,
        "journal": StepClass.CACHED,
        "core": StepClass.DIRECT,
        "segments": StepClass.DIRECT,
    }
    assert [step.id for step in steps if step.reads_first] == [*light, "core"]
    assert {step.limits.floor_bytes for step in steps} == {0}
    assert {trigger.id: trigger.pipeline for trigger in plan.triggers} == {
        "cores": "crash",
        "deaths": "crash",
        "kernel": "brief",
    }
    *light, core = plan.pipelines["brief"].steps
    assert {step.budget.step_class for step in light} == {StepClass.LIGHT, StepClass.CACHED}
    assert isinstance(core.collector, Core)
    assert (core.collector.keep, core.required) == (KeepCore.NONE, False), "its notes only"


def test_compile_takes_timeout_and_budget_from_the_collector_by_default(tmp_path: Path) -> None:
    """A step that sets nothing has what its collector declares."""
    plain = first_step(tmp_path, "{id: a, collector: dmesg}")
    assert (plain.timeout_s, plain.budget.memory_bytes) == (Dmesg.footprint.timeout_s, Dmesg.footprint.peak_bytes)
    given = first_step(tmp_path, "{id: a, collector: dmesg, timeout: 3s, budget: 5MiB}")
    assert (given.timeout_s, given.budget.memory_bytes) == (3.0, 5 << 20)


def test_compile_floor_of_the_file_is_for_heavy_steps(tmp_path: Path) -> None:
    """What adds almost nothing has a floor only where the step or `defaults` sets one."""
    heavy = "{id: a, collector: command, with: {argv: [/bin/true]}}"
    assert first_step(tmp_path, heavy, "pressure: {floor: 3GiB}\n").limits.floor_bytes == 3 << 30
    assert first_step(tmp_path, "{id: a, collector: shm}", "pressure: {floor: 3GiB}\n").limits.floor_bytes == 0
    own = first_step(tmp_path, "{id: a, collector: dmesg, pressure: {floor: 2GiB}}")
    assert (own.limits.floor_bytes, own.reads_first) == (2 << 30, False)
    shared = first_step(tmp_path, "{id: a, collector: shm}", "defaults: {pressure: {floor: 2GiB}}\n")
    assert shared.limits.floor_bytes == 2 << 30


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ("pressure: {psi_full: 5%}\n", "psi_full"),
        ("defaults: {pressure: {psi_full: 5%}}\n", "psi_full"),
        ("  other: {let_smaller_first: false, steps: [{id: a, collector: dmesg}]}\n", "let_smaller_first"),
    ],
)
def test_compile_warns_of_keys_of_earlier_releases(more: str, key: str, tmp_path: Path) -> None:
    """After an upgrade the old file still works, and the log says what to remove."""
    plan = plan_of(tmp_path, f"{PIPELINE}      - {{id: a, collector: dmesg}}\n{more}")
    (warning,) = plan.warnings
    assert warning.severity is Severity.WARNING
    assert warning.mark.column == more.splitlines()[-1].index(key) + 1
    assert f"'{key}' is no longer a key of" in warning.message
    assert str(warning.hint).startswith("remove it: ")
    assert plan.pipelines["crash"].steps


def test_compile_pressure_comes_from_step_then_defaults_then_file(tmp_path: Path) -> None:
    """The nearest setting wins, key by key."""
    step = first_step(
        tmp_path,
        "{id: a, collector: dmesg, pressure: {floor: 3GiB}}",
        "defaults: {pressure: {floor: 2GiB, wait: 2s}}\npressure: {floor: 1GiB, wait: 1s, on_pressure: skip}\n",
    )
    limits = step.limits
    assert (limits.floor_bytes, limits.wait_s, limits.on_pressure) == (3 << 30, 2.0, Policy.SKIP)


def test_compile_shares_options_by_collector_without_anchors(tmp_path: Path) -> None:
    """`defaults.with` holds for every step of a collector; a step's own option wins."""
    shared = "defaults: {timeout: 7s, required: false, with: {files: {max_bytes: 1MiB, max_files: 3}}}\n"
    step = first_step(tmp_path, "{id: a, collector: files, with: {paths: [/a], max_files: 5}}", shared)
    assert (step.collector.max_bytes, step.collector.max_files) == (1 << 20, 5)  # type: ignore[attr-defined]
    assert (step.timeout_s, step.required) == (7.0, False)


def test_compile_leaves_out_what_is_off(tmp_path: Path) -> None:
    """`enabled: false` removes steps and triggers, whatever state they are in."""
    text = PIPELINE + "      - {id: a, collector: dmesg}\n      - {id: b, collector: gone, enabled: false}\n"
    text += "triggers:\n  - {id: t, type: gone, pipeline: gone, enabled: false}\n"
    plan = plan_of(tmp_path, text)
    assert [step.id for step in plan.pipelines["crash"].steps] == ["a"]
    assert plan.triggers == ()


def test_compile_alone_reports_what_loading_found(tmp_path: Path) -> None:
    """However it was loaded, a bad file never becomes a plan."""
    with pytest.raises(ConfigError):
        plan_of(tmp_path, PIPELINE + "      - {id: a, collector: dmesg}\npressure: {floor: x}\n")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_compile_of_what_is_shown_is_what_is_in_force(path: Path, tmp_path: Path) -> None:
    """The output of `config show` is itself a file that compiles to the same steps and triggers."""
    plan = prepare(str(path), TRIGGERS)
    shown = plan_of(tmp_path, "\n".join(as_yaml(effective(plan))) + "\n")
    assert shown.pipelines == plan.pipelines
    assert shown.triggers == plan.triggers
    assert values(effective(shown)) == values(effective(plan))


@given(
    words=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12), max_size=4)
)
@example(
    words=[
        "no",
        "~",
        "null",
        "010",
        "12:30",
        "a: b",
        "# x",
        "*.core",
        "&a",
        "",
        " ",
        "5%",
        "\x85\u2028\t\n",
        "'\"",
        "1e3",
    ]
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_compile_of_what_is_shown_keeps_text_as_it_is(words: list[str], tmp_path: Path) -> None:
    """Text that YAML could take for something else is quoted where it is shown."""
    step = {"id": "a", "collector": "shm", "with": {"exclude": words}}
    plan = plan_of(tmp_path, json.dumps({"version": 1, "pipelines": {"crash": {"steps": [step]}}}))
    shown = plan_of(tmp_path, "\n".join(as_yaml(effective(plan))) + "\n")
    assert shown.pipelines == plan.pipelines
    assert shown.pipelines["crash"].steps[0].collector.exclude == tuple(words)  # type: ignore[attr-defined]


def test_effective_value_names_its_origin(tmp_path: Path) -> None:
    """Each value has the line that it comes from, inherited ones included."""
    text = PIPELINE + "      - id: a\n        collector: dmesg\n        with: {since: 5m}\npressure:\n  wait: 10s\n"
    plan = plan_of(tmp_path, text)
    of = dict(origins(effective(plan)))
    file = tmp_path / "c.yaml"
    assert of["pipelines.crash.steps[0].with.since"] == f"{file}:7:23"
    assert of["pipelines.crash.steps[0].pressure.wait"] == f"{file}:9:9"
    assert of["pipelines.crash.steps[0].pressure.floor"] == "default"
    assert of["pipelines.crash.steps[0].timeout"] == "default"
    assert of["archive.path"] == "default"
