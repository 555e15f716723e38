"""``collector doctor``: what is wrong with this machine, and what to do about it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click
import msgspec

from collector.cli.check import Check
from collector.cli.doctor_machine import MACHINE
from collector.cli.guarded import guarded
from collector.cli.options import config_option, json_option
from collector.model.errors import ArchiveError, ConfigError, DeniedError
from collector.model.text import escape_name

if TYPE_CHECKING:
    from collector.cli.doctor_probes import Situation

UNNOTICED = 3
"""The exit status of ``--strict`` if there is a kind of crash that no trigger would notice."""

PATIENCE_S = 5.0
"""How long a daemon may take to answer; it takes milliseconds."""


@click.command("doctor")
@click.option("--strict", is_flag=True, help="Exit status 3 if there is a kind of crash that no trigger would notice.")
@click.option("--drill", is_flag=True, help="Crash a process made for it, and wait for its incident.")
@config_option
@json_option
def doctor_command(*, strict: bool, drill: bool, config: str | None, as_json: bool) -> int:
    """
    Check what decides whether a crash is seen.

    Privileges, kernel, memory, configuration, archive, cores, each kind of crash and who notices it, daemon. Exit
    status 73 if something keeps incidents from being archived, 78 if the configuration has mistakes, 77 if --strict
    cannot tell because this user may not ask the daemon.

    --drill counts in the budgets of `storm`: as one crash of root's, and one of Python. Exit status 0 if its incident
    is complete, 3 if not, 69 without a daemon.
    """
    checks: list[Check] = []

    def tell(check: Check) -> None:
        checks.append(check)
        if not as_json:
            _show(check)

    for check in (found for probe in MACHINE for found in guarded(probe)):
        tell(check)
    # Only now: reading the configuration and asking the daemon takes most of the time until here.
    from collector.cli.doctor_probes import probe_all, situation_of  # noqa: PLC0415

    situation = situation_of(config, patience_s=PATIENCE_S)
    for check in probe_all(situation):
        tell(check)
    drilled = _drilled(situation, tell) if drill else 0
    if as_json:
        click.echo(msgspec.json.encode(checks))
    return drilled or _status(checks, strict=strict, denied=isinstance(situation.answer, DeniedError))


def _drilled(situation: Situation, tell: Callable[[Check], None]) -> int:
    """Tell what became of a drill; return its exit status."""
    from collector.cli.drill import drill_checks  # noqa: PLC0415 - only for --drill

    status = 0
    for check, status_so_far in drill_checks(situation.generation, situation.answer):
        tell(check)
        status = status_so_far
    return status


def _status(checks: list[Check], *, strict: bool, denied: bool) -> int:
    """Return the exit status; *denied*: the daemon may not be asked, so that ``--strict`` cannot tell."""
    if strict and any(check.unnoticed for check in checks):
        return UNNOTICED
    if any(check.level == "bad" and check.about == "config" for check in checks):
        return ConfigError.exit_code
    if any(check.level == "bad" for check in checks):
        return ArchiveError.exit_code
    return DeniedError.exit_code if strict and denied else 0


def _show(check: Check) -> None:
    click.echo(f"{check.level:<8} {check.about:<12} {escape_name(check.said)}")
    if check.hint:
        click.echo(f"{'':<8} {'':<12} hint: {escape_name(check.hint)}")
    sys.stdout.flush()  # the last probe looks at the machine for two seconds
