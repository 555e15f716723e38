"""
PID 1 of a PID namespace in which PIDs can be reused at will: `unshare --pid --fork --mount-proc python recycler.py`.

``recycler.py FIFO COMMAND...`` starts a victim, runs COMMAND with the victim's PID appended, replaces the
victim by an impostor of the same PID while COMMAND is held at FIFO, and passes on COMMAND's exit status.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harness import held

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


def sleeper(**environment: str) -> subprocess.Popen[bytes]:
    """Start a process that its environment identifies."""
    return subprocess.Popen(["/bin/sleep", "600"], env=environment)


def recycle(victim: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
    """Kill a process and start another with the same PID."""
    victim.kill()
    victim.wait()
    LAST_PID.write_text(str(victim.pid - 1))
    impostor = sleeper(WHO="impostor")
    assert impostor.pid == victim.pid
    return impostor


def main(fifo: str, *command: str) -> int:
    """Replace the victim while the command is blocked."""
    victim = sleeper(WHO="victim")
    running = subprocess.Popen([*command, str(victim.pid)])
    with held(Path(fifo)):
        impostor = recycle(victim)
    status = running.wait()
    impostor.kill()
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
