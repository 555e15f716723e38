"""Configurations for tests: the shipped one, with the test's directories and changes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

SHIPPED = yaml.safe_load((Path(__file__).parents[2] / "config/collector.yaml").read_text(encoding="utf-8"))
HERE = {
    "archive": {"path": "$archive", "reserve": "0%"},  # the disk of a test machine may be nearly full
    "runtime": {"directory": "$runtime"},
    "recorder": {"keep": "0s"},  # a test that wants its step says so
}

CORES = '{id: cores, type: core_files, paths: [$cores], match: ["core*"], pipeline: crash}'
CRASHER = f"crasher{os.getpid()}"
"""The name of the crasher: another run on this machine has its own."""
EXITS = f"{{id: exits, type: process_exits, rules: [{{comm: [{CRASHER}]}}], pipeline: crash}}"
NOTIFY = "{id: told, type: notify, pipeline: crash}"

MEMORY = "{id: memory, collector: proc_files}"
TABLE = "{id: processes, collector: process_table}"
KERNEL_LOG = "{id: kernel_log, collector: dmesg}"
CORE = "{id: core, collector: core}"
SEGMENTS = "{id: segments, collector: shm, with: {from: crashed_process}}"
HOLD = "{id: hold, collector: command, timeout: 30s, with: {argv: [/bin/cat, $directory/hold]}}"
"""A step that blocks until the test lets it continue; see `harness.held`."""

UNBOUNDED = {
    "coalesce": "0s",
    "per_executable": {"count": 1_000_000},
    "per_uid": {"count": 1_000_000},
    "total": {"count": 1_000_000, "bytes": "1TiB"},
    "queue": 1000,
}
"""A ``storm`` section with which every crash gets its own incident."""


def config_of(*steps: str, triggers: tuple[str, ...] = (CORES,), **sections: Mapping[str, Any]) -> str:
    """
    Return a configuration, for `write_config` or a `Daemon`.

    Args:
        steps: Steps in flow style, instead of the shipped ones.
        triggers: Triggers, likewise.
        sections: Keys that differ from the shipped ones, by section: ``storm={"coalesce": "0s"}``.
    """
    config = dict(SHIPPED)
    for changes in (HERE, sections):
        config |= {name: {**config.get(name, {}), **keys} for name, keys in changes.items()}
    config["triggers"] = [yaml.safe_load(trigger) for trigger in triggers]
    if steps:
        config["pipelines"] = {"crash": {"steps": [yaml.safe_load(step) for step in steps]}}
        if "over_budget" not in sections.get("storm", {}):  # its pipeline is among those replaced
            config["storm"] = {key: value for key, value in config["storm"].items() if key != "over_budget"}
    return yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=1000)


def write_config(directory: Path, text: str) -> Path:
    """Write a configuration whose ``$archive``, ``$cores``, ``$runtime`` and ``$directory`` are in *directory*."""
    for name, path in {"archive": "archive", "cores": "cores", "runtime": "run", "directory": ""}.items():
        text = text.replace(f"${name}", str(directory / path))
    path = directory / "collector.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def in_turn(step: str) -> str:
    """Return *step* with its own floor: a light step is then not read first, but runs in order."""
    return step.removesuffix("}") + ", pressure: {floor: 1}}"
