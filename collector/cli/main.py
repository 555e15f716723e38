"""The command `collector`: its verbs, and the one place that turns errors into exit statuses."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import Any

import click

from collector import __version__
from collector.cli import streams
from collector.cli.verbs import Verbs, config_option
from collector.model.errors import CollectorError

# Imported on demand: `collector notify` runs at crash time and must start small.
VERBS = {
    "run": "collector.cli.run:run_command",
    "daemon": "collector.cli.daemon:daemon_command",
    "config": "collector.cli.config:config_group",
    "copy": "collector.cli.copy:copy_command",
    "list": "collector.cli.listing:list_command",
    "crashes": "collector.cli.crashes:crashes_command",
    "show": "collector.cli.show:show_command",
    "debug": "collector.cli.debug:debug_command",
    "report": "collector.cli.report:report_command",
    "export": "collector.cli.export:export_command",
    "prune": "collector.cli.prune:prune_command",
    "verify": "collector.cli.verify:verify_command",
    "status": "collector.cli.status:status_command",
    "metrics": "collector.cli.metrics:metrics_command",
    "drain": "collector.cli.drain:drain_command",
    "doctor": "collector.cli.doctor:doctor_command",
    "core-pattern": "collector.cli.core_pattern:core_pattern_command",
    "notify": "collector.cli.notify:notify_command",
    "help": "collector.cli.help:help_command",
}

BROKEN_PIPE = 141
"""What a shell reports for a program that SIGPIPE ended: 128 plus the signal number."""

INTERRUPTED = 130


class AllVerbs(Verbs):
    """All verbs."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; if its reader closes the pipe (``| head``), end without a message."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise click.exceptions.Exit(BROKEN_PIPE) from None


@click.group(cls=AllVerbs, verbs=VERBS, context_settings={"help_option_names": ["-h", "--help"]})
@config_option
@click.version_option(__version__, prog_name="collector")
def cli(*, config: str | None) -> None:
    """Collect the evidence of a crash without making the machine worse."""


def main(args: list[str] | None = None) -> None:
    """Run the command line; every error is one line, a hint where there is one, and its exit status."""
    if args is None and sys.getfilesystemencoding() != "utf-8":
        # Names and configuration are UTF-8 whatever the locale says: what is recorded must not depend on who runs this.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606
    if args is None:
        _take_name()
        streams.prepare()
    status = _run(sys.argv[1:] if args is None else args)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            # What is left cannot be written when the interpreter ends either, which would exit with status 120 for it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(status)


def _take_name() -> None:
    """Be `collector` for ps and the kernel's log: what starts it runs Python by that name."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write("collector")


def _run(args: list[str]) -> int:
    as_json = "--json" in args
    try:
        result: Any = cli.main(args=args, prog_name="collector", standalone_mode=False)
    except CollectorError as exc:
        return _failed(exc.exit_code, str(exc), exc.hint, as_json=as_json)
    except click.ClickException as exc:
        with contextlib.suppress(OSError):
            exc.show()
        return _failed(64, exc.format_message(), None, as_json=as_json, shown=True)
    except click.Abort:
        return _failed(INTERRUPTED, "interrupted", None, as_json=as_json)
    except OSError as exc:
        return _failed(*_system_error(exc), as_json=as_json)
    except Exception as exc:  # noqa: BLE001 - the last resort: scripts get an exit status whatever happens
        import traceback  # noqa: PLC0415 - only a bug needs it

        hint = f"please report it with this traceback\n{traceback.format_exc()}"
        return _failed(70, f"a bug: {type(exc).__name__}: {exc}", hint, as_json=as_json)
    return result if isinstance(result, int) else 0


def _system_error(exc: OSError) -> tuple[int, str, str | None]:
    """Return exit status, message and hint for an error that no verb handles."""
    if exc.errno == errno.EBADF and streams.output_is_closed():
        return 73, "standard output is closed", None
    name = exc.filename if isinstance(exc.filename, str) else None
    message = ": ".join(part for part in (name, exc.strerror or str(exc)) if part)
    if isinstance(exc, PermissionError):
        return 77, message, None if os.geteuid() == 0 else "run it as root (sudo)"
    return 73, message, None


def _failed(status: int, message: str, hint: str | None, *, as_json: bool, shown: bool = False) -> int:
    """Print the error on standard error unless it was *shown* already, and as JSON on standard output for scripts."""
    from collector.cli.text import printable_lines  # noqa: PLC0415 - only an error needs it

    with contextlib.suppress(OSError):
        if not shown:
            click.echo(f"collector: {printable_lines(message)}", err=True)
            if hint:
                click.echo(f"  hint: {printable_lines(hint)}", err=True)
    if as_json:
        import msgspec  # noqa: PLC0415

        document = {"error": printable_lines(message), "hint": hint and printable_lines(hint), "exit_code": status}
        with contextlib.suppress(OSError):
            click.echo(msgspec.json.encode(document))
    return status


if __name__ == "__main__":
    main()
