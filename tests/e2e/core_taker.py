"""
A service that takes crashes from the kernel by the daemon's own classes, and refuses each: `core_taker.py DIRECTORY`.

It appends the PID of each to DIRECTORY/taken. SIGUSR1 ends it with status 78; SIGTERM once DIRECTORY/wait is gone. With
DIRECTORY/fail it does not start.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import time
from pathlib import Path

from collector.daemon.sdnotify import ServiceManager
from collector.host.coredump_socket import reject
from collector.host.files import Host
from collector.host.pidfd import peer_pidfd, pidfd_info
from collector.triggers.base import TriggerContext
from collector.triggers.kernel_cores.registration import Registration


def listening(path: Path, ctx: TriggerContext) -> socket.socket:
    """Return the socket of an earlier run, else a new one."""
    assert ctx.descriptors is not None
    if (fd := ctx.descriptors.stored("cores")) is not None:
        return socket.socket(fileno=fd)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path.unlink(missing_ok=True)
    sock.bind(str(path))
    sock.listen(16)
    assert ctx.descriptors.store("cores", sock.fileno())
    return sock


def main(directory: Path) -> None:
    if (directory / "fail").exists():
        sys.exit(1)
    manager = ServiceManager()
    assert manager.descriptors is not None
    assert not any(name.startswith("LISTEN_") for name in os.environ)
    runtime = directory / "run"
    runtime.mkdir(mode=0o700, exist_ok=True)
    ctx = TriggerContext(
        id="held",
        host=Host(),
        ignore=(),
        runtime_directory=str(runtime),
        remember=lambda _key, _text: None,
        recall=lambda _key: None,
        descriptors=manager.descriptors.of("held"),
    )
    sock = listening(runtime / "cores", ctx)
    manager.descriptors.keep(["held"])
    registration = Registration(ctx, takeover=False)
    problem = registration.register(f"@@{runtime}/cores", None)
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, _: asked.append(number))
    manager.ready(problem or "watching")
    selector = selectors.DefaultSelector()
    selector.register(sock, selectors.EVENT_READ)
    while not asked:
        for _ in selector.select(0.05):
            connection, _ = sock.accept()
            with (directory / "taken").open("a", encoding="ascii") as file:
                file.write(f"{pidfd_info(peer_pidfd(connection)).pid}\n")
            reject(connection.fileno())
            connection.close()
    if signal.SIGUSR1 in asked:
        sys.exit(78)
    manager.stopping()
    (directory / "stopping").touch()
    while (directory / "wait").exists():
        time.sleep(0.02)
    registration.close()


main(Path(sys.argv[1]))
