"""``collector notify``: tell the daemon about a crash, from a supervisor or a systemd unit."""

from __future__ import annotations

import os
import re
import socket

import click

from collector.model.errors import DeniedError, UnreachableError, UsageError

DEFAULT_SOCKET = "/run/collector/notify.sock"
# Set by systemd for ExecStopPost=, and with the prefix MONITOR_ for OnFailure= units (systemd 251), whose own
# INVOCATION_ID is not that of the unit that failed.
SERVICE_KEYS = ("SERVICE_RESULT", "EXIT_CODE", "EXIT_STATUS", "INVOCATION_ID")
TRIGGER_KEYS = tuple(f"MONITOR_{key}" for key in (*SERVICE_KEYS, "UNIT"))
SYSTEMD_TIMEOUT_S = 2.0
_FACT = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,63})[ \t]*=.*", re.DOTALL)


@click.command("notify")
@click.argument("facts", nargs=-1, metavar="KEY=VALUE...")
@click.option("--socket", "path", metavar="PATH", help="The daemon's socket, instead of the configured one.")
@click.option("--systemd", is_flag=True, help="Add what systemd sets in the environment; do nothing after a success.")
@click.option("--config", metavar="PATH", help="Configuration file [/etc/collector/collector.yaml].")
def notify_command(*, facts: tuple[str, ...], path: str | None, systemd: bool, config: str | None) -> int:
    """
    Tell the daemon about a crash.

    Known keys: PID, START_TIME, COMM, EXE, UID, UNIT, SIGNAL, EXIT_STATUS, REASON. Others are kept as they are. A key
    may be given once. If a number or a signal cannot be understood, the daemon is told without it, and the exit status
    is 64.
    """
    said: dict[str, str] = {}
    for fact in facts:
        match = _FACT.fullmatch(fact)
        if match is None:
            raise UsageError(f"{fact!r} is not KEY=VALUE")
        if said.setdefault(match[1].upper(), fact) is not fact:
            raise UsageError(f"{match[1].upper()} is given twice")
    if systemd:
        if "success" in {os.environ.get("SERVICE_RESULT"), os.environ.get("MONITOR_SERVICE_RESULT")}:
            return 0
        _add_environment(said)
    if not said:
        raise UsageError("no facts given", hint="collector notify PID=4711 SIGNAL=SEGV")
    # A line break would split a fact in two.
    data = "\n".join(fact.replace("\n", " ") for fact in said.values()).encode(errors="surrogateescape")
    _send(path or _socket(config), data)
    # Checked last, so that a mistake neither delays nor loses the notification.
    from collector.triggers.facts import parse  # noqa: PLC0415 - 15 ms
    from collector.triggers.notify import DATAGRAM_BYTES  # noqa: PLC0415

    if len(data) > DATAGRAM_BYTES:
        raise UsageError(f"{len(data)} bytes of facts; the daemon refuses more than {DATAGRAM_BYTES}")
    if ignored := parse(data).ignored:
        raise UsageError(
            f"{'; '.join(ignored)}; the daemon was told about the crash without it",
            hint="collector notify PID=4711 SIGNAL=SEGV",
        )
    return 0


def _add_environment(said: dict[str, str]) -> None:
    """Add what systemd set in the environment, and the main PID of the unit, which it did not."""
    keys, prefix = (SERVICE_KEYS, "") if "SERVICE_RESULT" in os.environ else (TRIGGER_KEYS, "MONITOR_")
    for key in keys:
        if key in os.environ:
            said.setdefault(key, f"{key}={os.environ[key]}")
    failed = os.environ.get("MONITOR_UNIT") if prefix else None
    unit = failed or said.get("UNIT", "").partition("=")[2].strip()
    invocation = os.environ.get(f"{prefix}INVOCATION_ID")
    if unit and invocation and "PID" not in said and (pid := _main_pid(unit, invocation)):
        said["PID"] = f"PID={pid}"


def _main_pid(unit: str, invocation: str) -> str | None:
    """
    Ask systemd for the PID of a unit's main process.

    It keeps that of a process that has exited, until the unit is started again: then *invocation* is another. If there
    is no answer, the notification goes out without it.
    """
    import subprocess  # noqa: PLC0415 - 10 ms

    command = ["systemctl", "show", "--property=InvocationID,ExecMainPID", "--", unit]
    try:
        asked = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return None
    try:
        answer, _ = asked.communicate(timeout=SYSTEMD_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        asked.kill()
        return None
    properties = dict(line.split("=", 1) for line in answer.decode(errors="replace").splitlines() if "=" in line)
    pid = properties.get("ExecMainPID", "0")
    return pid if properties.get("InvocationID") == invocation and pid.isdecimal() and pid != "0" else None


def _send(path: str, data: bytes) -> None:
    """Send one datagram without waiting: the caller may be cleaning up after a dying process."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as client:
        try:
            client.sendto(data, path)
        except PermissionError as exc:
            raise DeniedError(f"{path}: {exc.strerror}", hint="add your uid to `uids` of the notify trigger") from exc
        except BlockingIOError as exc:
            raise UnreachableError(f"{path}: the daemon's queue is full") from exc
        except OSError as exc:
            hint = "is the daemon running, with a trigger of type notify?"
            raise UnreachableError(f"{path}: {exc.strerror}", hint=hint) from exc


def _socket(config: str | None) -> str:
    """Return the path of the socket; the configuration is read only if the default one does not exist."""
    if config is None and os.path.exists(DEFAULT_SOCKET):
        return DEFAULT_SOCKET
    from collector.config.directories import effective_runtime_directory  # noqa: PLC0415 - 30 ms, rarely needed
    from collector.config.load import find, load  # noqa: PLC0415
    from collector.config.nodes import text_of  # noqa: PLC0415

    loaded = load(find(config)).config
    named = (text_of(trigger.options.get("socket")) for trigger in loaded.triggers if trigger.type == "notify")
    directory = effective_runtime_directory(loaded, is_root=os.geteuid() == 0, environ=os.environ)
    return next((path for path in named if path), os.path.join(directory, "notify.sock"))
