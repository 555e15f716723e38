"""
What the Tab key offers: ids of incidents, steps, pipelines, triggers, and the commands to explain.

It is asked for at each press of the key: what cannot be read offers nothing, and nothing is printed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress

import click

from collector.cli.verbs import given_config

Offer = Callable[[click.Context, click.Parameter, str], list[str]]


def _quietly(known: Callable[[click.Context], Iterable[str]]) -> Offer:
    """Return a callback for click that offers those *known* that begin with what is typed; none if that fails."""

    def offer(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        taken = ctx.params.get(parameter.name or "") or ()
        with suppress(Exception):
            offered = [word for word in dict.fromkeys(known(ctx)) if word.startswith(incomplete)]
            return [word for word in offered if not isinstance(taken, tuple) or word not in taken]
        return []

    return offer


def _archive(ctx: click.Context) -> str:
    """Return the archive that the command would read."""
    from collector.config.directories import effective_archive_path  # noqa: PLC0415 - only when Tab is pressed
    from collector.config.load import find, load_lenient  # noqa: PLC0415

    if ctx.params.get("archive"):
        return str(ctx.params["archive"])
    known = load_lenient(find(given_config(ctx)))
    return effective_archive_path(known, is_root=os.geteuid() == 0, environ=os.environ)


def _incidents(ctx: click.Context) -> list[str]:
    """Return the directories of all incidents, the oldest first; the ledger and other files are beside them."""
    from collector.archive.layout import PARTIAL, is_id  # noqa: PLC0415

    return sorted(name for name in os.listdir(_archive(ctx)) if is_id(name.removesuffix(PARTIAL)))


def _ids(ctx: click.Context) -> Iterable[str]:
    """Yield ``latest`` and all incidents, the newest first, by their labels."""
    from collector.archive.layout import PARTIAL  # noqa: PLC0415

    return ["latest", *(name.removesuffix(PARTIAL) for name in reversed(_incidents(ctx)))]


def _steps_of_incident(ctx: click.Context) -> Iterable[str]:
    """Yield the steps of the incident that is typed already: its directories."""
    from collector.archive.layout import PARTIAL  # noqa: PLC0415

    typed = str(ctx.params.get("incident") or "latest")
    names = _incidents(ctx)
    fitting = [name for name in names if typed == "latest" or _fits(name.removesuffix(PARTIAL), typed)]
    with os.scandir(os.path.join(_archive(ctx), fitting[-1])) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))


def _fits(name: str, typed: str) -> bool:
    return name.startswith(typed) or name.endswith(typed)


def _steps(ctx: click.Context) -> Iterable[str]:
    """Yield the steps of the pipeline that is typed already, or of all."""
    pipelines = _loaded(ctx)
    chosen = ctx.params.get("pipeline")
    return [step for name, steps in pipelines.items() if chosen in (None, name) for step in steps]


def _loaded(ctx: click.Context) -> dict[str, list[str]]:
    """Return the steps of each pipeline, as the files have them."""
    from collector.config.load import find, load_lenient  # noqa: PLC0415

    known = load_lenient(find(given_config(ctx)))
    return {name: [step.id for step in pipeline.steps] for name, pipeline in known.pipelines.items()}


def _triggers(ctx: click.Context) -> Iterable[str]:
    from collector.config.load import find, load_lenient  # noqa: PLC0415

    return [trigger.id for trigger in load_lenient(find(given_config(ctx))).triggers]


def _verbs(ctx: click.Context) -> Iterable[str]:
    """Return the commands below those that are typed already."""
    here = ctx.find_root()
    for verb in ctx.params.get("verbs") or ():
        command = here.command.get_command(here, verb) if isinstance(here.command, click.Group) else None
        if command is None:
            return []
        here = click.Context(command, info_name=verb, parent=here)
    return here.command.list_commands(here) if isinstance(here.command, click.Group) else []


complete_ids = _quietly(_ids)
complete_incident_steps = _quietly(_steps_of_incident)
complete_steps = _quietly(_steps)
complete_pipelines = _quietly(_loaded)
complete_triggers = _quietly(_triggers)
complete_verbs = _quietly(_verbs)
