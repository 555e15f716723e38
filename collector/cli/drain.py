"""``collector drain``: let the daemon finish what it has, and begin nothing more; before an upgrade."""

from __future__ import annotations

import sys
import time

import click
import msgspec

from collector.cli.options import config_option, json_option, parsed
from collector.cli.progress_line import fitting
from collector.cli.text import size
from collector.config.load import find
from collector.daemon.messages import DrainRequest, Status
from collector.daemon.requests import refusal, reply_to, runtime_directory, status_of
from collector.model.errors import PressureError
from collector.model.units import parse_seconds

LOOK_S = 0.5
ERASE_LINE = "\r\033[K"
DRAINED = "drained: crashes are recorded, and collected after a restart or `collector drain --off`"


@click.command("drain")
@click.option("--off", is_flag=True, help="Begin incidents again; what was recorded meanwhile comes first.")
@click.option("--timeout", "timeout", default="30m", metavar="DURATION", help="How long to wait for their end [30m].")
@config_option
@json_option
def drain_command(*, off: bool, timeout: str, config: str | None, as_json: bool) -> int:
    """
    Let the daemon finish what it has, and begin nothing more.

    Crashes are recorded, and collected after its next start. Exit status 75 if incidents are still under way after the
    time allowed, and the daemon stays drained; or if somebody has ended the drain meanwhile.
    """
    until_s = time.monotonic() + parsed(parse_seconds, timeout)
    directory = runtime_directory(find(config))
    reply = reply_to(directory, DrainRequest(off=off))
    if reply.exit_code:
        raise refusal(reply)
    status = status_of(directory)
    live = sys.stderr.isatty() and not as_json
    while not off and _left(status) and status.drained_s is not None:
        if time.monotonic() >= until_s:
            raise PressureError(
                f"after {timeout}, {_left(status)} incidents are not archived: {_doing(status)}",
                hint="the daemon stays drained; wait again, or `collector drain --off`",
            )
        if live:
            click.echo(f"{ERASE_LINE}{fitting(_doing(status))}", err=True, nl=False)
        time.sleep(LOOK_S)
        status = status_of(directory)
    if live:
        click.echo(ERASE_LINE, err=True, nl=False)
    if not off and status.drained_s is None:
        raise PressureError(
            "it is not drained any more: somebody said `collector drain --off`, or it was restarted",
            hint="say it again, if it is still to be",
        )
    if as_json:
        click.echo(msgspec.json.encode({"drained": status.drained_s is not None, "waiting": status.queued}))
    else:
        click.echo("not drained" if off else DRAINED)
    return 0


def _left(status: Status) -> int:
    """Return how many incidents are still to be archived."""
    return len(status.running) + status.draining


def _doing(status: Status) -> str:
    running = [f"{one.incident} {one.step or 'opening'} {size(one.size_bytes)}" for one in status.running[:1]]
    return ", ".join([*running, f"{_left(status) - len(running)} more"] if _left(status) > 1 else running)
