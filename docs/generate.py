"""
Generate `docs/configuration.md` and `config/collector.schema.json` from the types, `docs/metrics.md` from the table of
metrics, and `docs/alerts.md` from the rules in `docs/alerts.yml`.

    python docs/generate.py            write them
    python docs/generate.py --check    exit 1 if they are not what would be written
"""

from __future__ import annotations

import enum
import json
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from collector.collectors.registry import COLLECTORS
from collector.config.dump import inline, written
from collector.config.keys import MISSING, Key, is_record, keys_of, summary_of
from collector.config.nodes import MappingNode
from collector.config.schema import schema_of
from collector.config.spec import NO_OPTIONS, Config
from collector.daemon.metric_table import METRICS, PREFIX
from collector.model import units
from collector.triggers.registry import TRIGGERS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "configuration.md"
SCHEMA = ROOT / "config" / "collector.schema.json"
METRICS_PAGE = ROOT / "docs" / "metrics.md"
RULES = ROOT / "docs" / "alerts.yml"
ALERTS_PAGE = ROOT / "docs" / "alerts.md"

KINDS: dict[object, str] = {
    units.Bytes: "size",
    units.Seconds: "duration",
    units.Reserve: "share or size",
    units.Rate: "rate",
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true` or `false`",
    MappingNode: "mapping",
}

INTRODUCTION = """\
# Configuration

<!-- Made by docs/generate.py from the types in collector/config, collectors and triggers. Do not edit. -->

One YAML file says what counts as a crash, what is collected, and how little that may cost.
`collector` reads the file named by `--config`, else `/etc/collector/collector.yaml`, else the one
shipped with it, `config/collector.yaml`: that one is complete, and a good place to start.

```
collector config check      every mistake, as FILE:LINE:COLUMN; warnings for what is legal but harmful
collector config test       whether the crashes in a file would be collected as it says
collector config show       what is in force, and where each value comes from
collector config explain    what a crash would collect now, and what that would cost
collector config schema     the JSON Schema, for editors
collector config reload     make the running daemon reload it
```

A bad file never takes effect: the daemon refuses to start with one (exit status 78), and a reload that
finds one keeps the configuration that is in force and says so in its log, in `collector status` and
in the exit status of `collector config reload`. An incident in progress keeps the one it began with.

`archive.path`, the keys of `recorder`, and those of `runtime` except `incident_timeout` and `reload_on_change` take
effect when the daemon is restarted. Until then the old values stay in force, and the answer to a reload, the log and
`collector status` name the keys that have changed.

## A small file

```yaml
version: 1
archive:
  path: /srv/crash
triggers:
  - id: cores
    type: core_files
    paths: [/var/lib/systemd/coredump]
    pipeline: crash
pipelines:
  crash:
    steps:
      - id: memory
        collector: proc_files
      - id: segments
        collector: shm
        with: {from: crashed_process, max_total: 16GiB}
```

## How values are written

| kind | written as |
|---|---|
| size | `64MiB`, `1.5GiB` (of 1024), `1GB` (of 1000), or a number of bytes. Not `64M`, which may mean either. |
| duration | `250ms`, `30s`, `10m`, `1h30m`, `14d`, `2w`, or a number of seconds. |
| share | `5%` |
| rate | `adaptive`, `max`, or a size per second: `200MiB/s`. |
| text | As written: `no`, `010` and `12:30` are words. Quoted where YAML needs it, as in `"*.core"`. |
| `true` or `false` | Only these two words. |
| a list | `[a, b]`, or one item per line after `- `; also for a single item. |

Keys that do not exist are errors, and so are keys given twice, tags (`!!python/...`), and merge keys
(`<<`): what steps share belongs under `defaults`. A file has at most 256 KiB, 24 levels and 10,000
values, aliases expanded. Characters that only look like those of YAML are pointed out, such as typographic quotes and
no-break spaces from a wiki; if one is meant, write it as an escape: `"\\u201c"`.

`collector config check` has errors, warnings and notes. A file with an error is never used. A warning is about what is
legal but harmful or without effect, and fails only `--strict`. A note is about what may well be as it should: a
directory that does not exist yet, a list that a drop-in replaces. In continuous integration, where neither the
archive's disk nor the service's user exist, `config check --strict --no-environment FILE` judges the files alone.
[Testing the configuration](testing-the-configuration.md) says how to hold it to what a crash must collect.

## Drop-ins

`conf.d/*.yaml` and `*.yml` beside the main file change it, in the order of their names; `config check` warns of names
that look like them and are not read (`x.conf`, `x.YAML`, `collector.yaml.d`), and is silent about
backups (`x.yaml~`, `x.yaml.bak`, `x.yaml.dpkg-dist`, `x.yaml.rpmnew`). Sections merge key by key.
Triggers and steps merge by their `id`: an item with a known id changes only the keys it gives, one
with a new id is appended, and needs all that an item needs: `config check` takes one that lacks its type, pipeline or
collector for a misspelt id. `enabled: false` turns an item off; `replace: true` replaces its namesake
entirely. Lists without ids, such as `paths`, are replaced: repeat what is to stay. `config check` notes what gets lost.

```yaml
pressure:
  floor: 2GiB                  # for commands, and copies through the page cache
triggers:
  - id: cores
    paths: [/srv/crash]
pipelines:
  crash:
    steps:
      - id: segments
        with: {segments: ["engine.*"]}
      - id: process
        enabled: false
```

## What steps share

`defaults` holds what all steps share unless they say otherwise, and the options that all steps of one
collector share.

```yaml
defaults:
  timeout: 20s
  pressure: {wait: 10s}
  with:
    files: {max_bytes: 4MiB}
```

## Which crash runs which step

A trigger names its pipeline. Within it, a step with `when` runs only for crashes that match all of
its conditions.

```yaml
pipelines:
  crash:
    steps:
      - id: database_log
        collector: files
        when: {unit: ["postgresql@*.service"], signal: [SIGSEGV, SIGABRT, SIGBUS]}
        with: {paths: ["/var/log/postgresql/*.log"]}
```

What counts is what is known when the incident begins, or by the time that its other steps have ended: a long dump is
noticed at its start, and its signal becomes known at its end. Steps that are left out are listed in the manifest
(`left_out`) and by `collector show`, each with the condition that was not met. `config check` and `doctor` warn of
conditions that no crash can meet, and `config explain TRIGGER` says which of its steps can never run:

- *a fact that no trigger of the pipeline can tell*: `memory_pressure` and runs by hand are about no process;
  `process_exits`, `exit_files` and `notify` can tell all four facts, `core_files` too, where the core or the process
  that still lives says them; `kernel_log` cannot tell the executable;
- *a command name of more than 15 characters*: the kernel keeps no more;
- *an executable without its path, a unit without its suffix*: they are compared as a whole, so write `*/engine` and
  `nginx.service`;
- *a signal that none of them reports*: core files are of signals that dump core, `process_exits` has `rules`;
- *a trigger that is off, or runs another pipeline*.
"""

METRICS_INTRODUCTION = """\
# Metrics

<!-- Made by docs/generate.py from collector/daemon/metric_table.py. Do not edit. -->

The daemon counts what it does. It opens no port: node_exporter passes it on to Prometheus, from a file that the daemon
writes.

```sh
collector metrics                              # all of them now, in the text format of Prometheus; 69 without a daemon
apt install prometheus-node-exporter           # reads /var/lib/prometheus/node-exporter/*.prom
mkdir -p /etc/collector/conf.d
echo 'metrics: {textfile: /var/lib/prometheus/node-exporter/collector.prom}' > /etc/collector/conf.d/metrics.yaml
collector config reload
```

The file is written every 15 s, also during an incident, mode 0644: to a hidden name beside it, then renamed, so that
nobody reads half of it. A small process does that alone, and nothing waits for it. If the directory is missing,
full, or not writable for root by its permissions (the service has no `CAP_DAC_OVERRIDE`), the log says so once
(`metrics.unwritten`), and it is tried again every 15 s; meanwhile the old file stays, and
`node_textfile_mtime_seconds` shows its age. When the daemon stops, the file stays as well: its age is how a monitoring
system learns that nobody watches for crashes ([alerts](alerts.md)).

A counter begins at 0 when the daemon starts, unless its line says otherwise. Everything that the configuration names
is there from the start, so that `increase()` sees the first event. No label is a user, a program, a PID or an incident:
`collector crashes` and `collector list` have these. A metric has at most 1,024 series; all others count as
`others`.

Each name begins with `$PREFIX`.

| name | type | labels | |
|---|---|---|---|
"""

ALERTS_INTRODUCTION = """\
# Alerts

<!-- Made by docs/generate.py from docs/alerts.yml. Do not edit. -->

[alerts.yml](alerts.yml) has rules for Prometheus over the [metrics](metrics.md). Copy it to where `rule_files` of
`prometheus.yml` looks, and `promtool check rules alerts.yml`. The machine is the label `instance`, as node_exporter's
scrape gives it. `CollectorDown` needs the file to be called `collector.prom`.

`page`: crashes are not collected now. `ticket`: evidence was or will be lost. `info`: worth a look.

| alert | severity | means | do |
|---|---|---|---|
"""


def metrics_page() -> str:
    """Return the page about metrics."""
    rows = (
        f"| `{metric.name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} | {metric.help} |\n"
        for metric in METRICS
    )
    return METRICS_INTRODUCTION.replace("$PREFIX", PREFIX) + "".join(rows)


def alerts_page() -> str:
    """Return the page about alerts."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    return ALERTS_INTRODUCTION + "".join(
        f"| `{rule['alert']}` | {rule['labels']['severity']} | {rule['annotations']['summary']} "
        f"| {rule['annotations']['action']} |\n"
        for rule in rules
    )


def page() -> str:
    """Return the reference page."""
    parts = [INTRODUCTION, "## The file\n", *_table(Config)]
    for key in keys_of(Config).values():
        parts += _section(key.name, key.annotation, key.default, 2)
    parts += ["## Options of collectors\n", "Keys under `with`, by the step's `collector`.\n"]
    for name, cls in sorted(COLLECTORS.items()):
        budget, deadline = units.format_bytes(cls.footprint.peak_bytes), units.format_seconds(cls.footprint.timeout_s)
        step_class = (
            f"{cls.footprint.step_class}, its head light" if cls.footprint.light_head else cls.footprint.step_class
        )
        cost = f"Class {step_class}; budget {budget}, deadline {deadline}."
        parts += [f"### {name}\n", f"{summary_of(cls)} {cost}\n", *_options(name, cls)]
    parts += ["## Options of triggers\n", "Keys beside `id`, `type` and `pipeline`, by the trigger's `type`.\n"]
    for name, kind in sorted(TRIGGERS.items()):
        parts += [f"### {name}\n", f"{summary_of(kind)}\n", *_options(name, kind)]
    return "\n".join(parts).rstrip() + "\n"


def _section(path: str, annotation: Any, default: Any, level: int) -> Iterator[str]:
    """Yield a heading and a table for a section whose default is *default*, and for those within it."""
    cls = _record_in(annotation)
    if cls is None:
        return
    yield f"{'#' * level} {path}\n"
    yield f"{summary_of(cls)}\n"
    owner = default if isinstance(default, cls) else None
    yield from _table(cls, owner)
    for key in keys_of(cls).values():
        yield from _section(f"{path}.{key.name}", key.annotation, _value(key, owner), level + 1)


def _options(name: str, cls: type) -> Iterator[str]:
    """Yield the table of a collector or a trigger, and the sections within it."""
    yield from _table(cls)
    for key in keys_of(cls).values():
        yield from _section(f"{name}.{key.name}", key.annotation, key.default, 4)


def _record_in(annotation: Any) -> type | None:
    """Return the record type that *annotation* is, or holds in a list or a table."""
    if annotation in KINDS:
        return None
    if is_record(annotation):
        return typing.cast(type, annotation)
    return next(filter(None, map(_record_in, typing.get_args(annotation))), None)


def _value(key: Key, owner: object) -> Any:
    """Return the value where *key* is left out."""
    return key.default if owner is None else getattr(owner, key.attribute)


def _table(cls: type, owner: object = None) -> Iterator[str]:
    keys = keys_of(cls).values()
    if not keys:
        yield "No options.\n"
        return
    yield "| key | kind | default | |\n|---|---|---|---|"
    for key in keys:
        yield f"| `{key.name}` | {_kind_of(key)} | {_default(key, _value(key, owner))} | {key.description} |"
    yield ""


def _default(key: Key, value: Any) -> str:
    if value is MISSING:
        return "*required*"
    if _record_in(key.annotation) is not None or value in (None, (), {}, NO_OPTIONS):
        return ""
    text = inline(written(value, key.annotation)).replace("|", "\\|")
    return f"`{text}`"


def _kind_of(key: Key) -> str:
    """Return what a key takes; ``null`` only where that differs from leaving it out."""
    words = _kind(key.annotation)
    return words if key.default is not None else words.removesuffix(" or `null`")


def _kind(annotation: Any) -> str:  # noqa: PLR0911 - one return per kind of type
    """Return in words what *annotation* takes."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in KINDS:
        return KINDS[annotation]
    if origin is typing.Annotated:
        return _kind(arguments[0]) + _bounds(arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("`null`" if each is type(None) else _kind(each) for each in arguments)
    if origin is typing.Literal:
        return _words([str(each) for each in arguments])
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return _words([str(member.value) for member in annotation])
    if origin in (tuple, list, frozenset):
        return "list of " + ("sections" if _record_in(annotation) else _kind(arguments[0]))
    if origin is dict:
        return "sections by name"
    return "section"


def _bounds(arguments: tuple[Any, ...]) -> str:
    shown = {units.Bytes: units.format_bytes, units.Seconds: units.format_seconds}
    show: Callable[[Any], str] = shown.get(arguments[0], str)
    for meta in arguments[1:]:
        if meta.ge is not None:
            return f", {show(meta.ge)} to {show(meta.le)}" if meta.le is not None else f", at least {show(meta.ge)}"
    return ""


def _words(words: list[str]) -> str:
    *most, last = [f"`{word}`" for word in words]
    return f"{', '.join(most)} or {last}" if most else last


def generated() -> dict[Path, str]:
    """Return what the files should hold."""
    return {
        PAGE: page(),
        SCHEMA: json.dumps(schema_of(COLLECTORS, TRIGGERS), indent=2) + "\n",
        METRICS_PAGE: metrics_page(),
        ALERTS_PAGE: alerts_page(),
    }


def main() -> int:
    """Write the files, or only check them."""
    stale = [path for path, text in generated().items() if not path.exists() or path.read_text() != text]
    if "--check" not in sys.argv[1:]:
        for path in stale:
            path.write_text(generated()[path])
        return 0
    for path in stale:
        print(f"{path.relative_to(ROOT)} is stale: run python docs/generate.py", file=sys.stderr)  # noqa: T201
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
