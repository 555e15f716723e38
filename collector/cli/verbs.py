"""Groups of verbs: each verb's module is imported when it is used, and one that is mistyped gets a suggestion."""

from __future__ import annotations

import difflib
import gc
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import click

from collector.model.errors import UsageError

DONE_OTHERWISE = {
    "version": "collector --version",
    "start": "systemctl start collector",
    "stop": "systemctl stop collector",
    "restart": "systemctl restart collector",
}
"""What is no verb, and how it is done."""

GROUP = "_group"
"""The end of the name of a verb that has verbs of its own."""


class Verbs(click.Group):
    """A group of *verbs*, a table from name to ``MODULE:NAME``."""

    def __init__(self, *, verbs: Mapping[str, str], **attributes: Any) -> None:
        super().__init__(**attributes)
        self.verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click
        if cmd_name not in self.verbs:
            return None
        module, _, name = self.verbs[cmd_name].partition(":")
        # Imports leave nothing to collect, and looking for it takes 16 of 209 ms of `config check`.
        gc.disable()
        try:
            command: click.Command = getattr(importlib.import_module(module), name)
        finally:
            gc.enable()
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """
        Read what stands before the verb.

        Raises:
            UsageError: If an option of the verb does.
        """
        verb = next((word for word in args if word in self.verbs), None)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as exc:
            if verb is None:
                raise
            hint = f"options of a command stand after it: `{ctx.command_path} {verb} {exc.option_name}`"
            raise UsageError(f"`{ctx.command_path}` has no option {exc.option_name}", hint=hint) from exc

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """
        Return the verb that *args* begins with, and the rest.

        Raises:
            UsageError: If there is none of that name, with the one that was probably meant; or if the group was given
                a ``--config`` that the verb does not read.
        """
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None and not name.startswith("-") and not ctx.resilient_parsing:
            hint = self._suggestion(ctx, name) or f"`{ctx.command_path} --help` lists them"
            raise UsageError(f"there is no command `{ctx.command_path} {name}`", hint=hint)
        if command is not None and given_config(ctx) is not None and not _reads_config(command):
            raise UsageError(f"`{ctx.command_path} {name}` reads no configuration", hint="leave --config out")
        return super().resolve_command(ctx, args)

    def _suggestion(self, ctx: click.Context, name: str) -> str | None:
        """Return what to do instead of a verb that does not exist; a verb of another group counts."""
        if name in DONE_OTHERWISE:
            return f"use `{DONE_OTHERWISE[name]}`"
        known = dict(self._paths(ctx, ctx.command_path))
        word = name.lower().replace("_", "-")
        whole = [path for path, verb in known.items() if verb == word]
        starts = [path for path, verb in known.items() if len(word) > 1 and verb.startswith(word)]
        near = difflib.get_close_matches(word, dict.fromkeys(known.values()), n=1, cutoff=0.6) if len(word) < 60 else []
        found = whole or starts[:3] or [path for path, verb in known.items() if verb in near][:1]
        return f"did you mean {' or '.join(f'`{path}`' for path in found)}?" if found else None

    def _paths(self, ctx: click.Context, path: str) -> Iterator[tuple[str, str]]:
        """Yield all verbs of this group and of those below it and beside it: the whole command, and the verb."""
        yield from ((f"{path} {verb}", verb) for verb in self.verbs)
        for verb in (verb for verb, target in self.verbs.items() if target.endswith(GROUP)):
            below = self.get_command(ctx, verb)
            yield from below._paths(ctx, f"{path} {verb}") if isinstance(below, Verbs) else ()
        if ctx.parent is not None and isinstance(ctx.parent.command, Verbs):
            root = ctx.parent.command_path
            yield from ((f"{root} {verb}", verb) for verb in ctx.parent.command.verbs)


def _reads_config(command: click.Command) -> bool:
    return isinstance(command, Verbs) or any(parameter.name == "config" for parameter in command.params)


def given_config(ctx: click.Context | None) -> str | None:
    """Return the ``--config`` that was given to the verb of *ctx*, or before it or those above it."""
    while ctx is not None:
        if ctx.params.get("config") is not None:
            return str(ctx.params["config"])
        ctx = ctx.parent
    return None


def _inherited(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:  # noqa: ARG001 - click
    """Return the option's value, else the one that stands before the verb; two different ones are a mistake."""
    before = given_config(ctx.parent)
    if value is not None and before is not None and value != before:
        raise UsageError(f"--config is given twice: {before} and {value}", hint="give it once")
    return before if value is None else value


config_option = click.option(
    "--config",
    metavar="PATH",
    callback=_inherited,
    help="Configuration file [/etc/collector/collector.yaml].",
    type=click.Path(),
)
"""``--config PATH``, which may stand before the verb as well. The type is for completion only: nothing is checked."""
