"""From the configuration to what can run: all of it, or all that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping as Table
from dataclasses import dataclass
from typing import Generic, TypeVar

from collector.config.load import Loaded, examine, in_order
from collector.model.diagnostics import Diagnostic, errors
from collector.model.errors import ConfigError
from collector.pipeline.compiler import Compiler
from collector.pipeline.steps import CompiledTrigger, Pipeline

T = TypeVar("T")

MANUAL_PIPELINE = "crash"
"""What ``collector run --now`` runs if nothing else is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Generic[T]):
    """
    All that a generation of the configuration asks for.

    Args:
        loaded: The configuration.
        pipelines: By name; steps that are off are left out.
        triggers: Those that are on.
        warnings: What the file says in vain.
    """

    loaded: Loaded
    pipelines: dict[str, Pipeline]
    triggers: tuple[CompiledTrigger[T], ...]
    warnings: tuple[Diagnostic, ...] = ()


def prepare(path: str | None, triggers: Table[str, type[T]]) -> Plan[T]:
    """
    Load and compile, so that one error holds all that is wrong, whichever of the two finds it.

    Args:
        path: The main file; ``None`` for the packaged default.
        triggers: The kinds of triggers by name.

    Raises:
        ConfigError: With every problem, in the order of files and lines.
    """
    return compile(examine(path), triggers)


def compile(loaded: Loaded, triggers: Table[str, type[T]]) -> Plan[T]:  # noqa: A001 - the word of the field
    """
    Compile *loaded*.

    Args:
        loaded: The configuration; its own problems count.
        triggers: The kinds of triggers by name (``TRIGGERS``; this package lies below theirs).

    Raises:
        ConfigError: With every problem, in the order of files and lines.
    """
    compiler = Compiler(loaded, triggers)
    pipelines = {name: compiler.pipeline(name, given) for name, given in loaded.config.pipelines.items()}
    compiled = tuple(filter(None, map(compiler.trigger, loaded.config.triggers)))
    compiler.check_whole()
    problems = in_order(compiler.explained(), loaded.files)
    if errors(problems):
        raise ConfigError(problems)
    return Plan(loaded=loaded, pipelines=pipelines, triggers=compiled, warnings=problems)
