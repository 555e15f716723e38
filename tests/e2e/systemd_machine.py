"""A booted systemd with the shipped units and those of a test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness import HERE, wait_for

UNITS = HERE.parents[1] / "systemd"
COLLECTOR = Path(sys.executable).parent / "collector"
UNIFIED = next(
    path for path in map(Path, ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")) if (path / "cgroup.procs").exists()
)
PLAIN = "[Unit]\nDefaultDependencies=no\n"
"""The default dependencies of a unit do not exist in this machine."""

OUTSIDE = "/usr/bin/nsenter --mount=/run/outside"
"""Runs a command in the first mount namespace, which is systemd's own on other machines."""

SERVICE = "collector.service"
SETTING = "collector-core-pattern"
LOOSE = "CapabilityBoundingSet=~\nRestrictNamespaces=no\nSystemCallFilter=setns\n"
"""What `nsenter` needs, which the shipped unit does not."""


def setting_units(config: Path, runtime: Path) -> dict[str, str]:
    """
    Return drop-ins by which the shipped units set core_pattern for a service whose runtime directory is *runtime*.

    The kernel must reach that by the same path; *config* says so.
    """
    verb = f"{COLLECTOR} core-pattern --config {config}"
    sets = f"{OUTSIDE} {verb} --as-asked"
    restores = f"{verb} --put-back --unless-started {SERVICE}"
    return {
        f"{SETTING}.path.d/test.conf": f"[Path]\nPathChanged=\nPathChanged={runtime}/core_pattern.wanted\n",
        f"{SETTING}.service.d/test.conf": f"[Service]\nExecStart=\nExecStart={sets}\n{LOOSE}",
        f"{SETTING}-restore.service.d/test.conf": f"[Service]\nExecStop=\nExecStop={restores}\n",
    }


class Machine:
    """
    PID 1 of its own namespaces.

    Args:
        scratch: A directory on a disk.
        units: Text of further units and drop-ins, by their path below the unit directory.
    """

    def __init__(self, scratch: Path, units: dict[str, str]) -> None:
        self.archive = scratch / "archive"
        self._console = scratch / "console"
        self._write(scratch / "units", units)
        self._cgroup = UNIFIED / f"collector-test-{os.getpid()}"
        self._cgroup.mkdir()
        join = f'echo 0 > {self._cgroup}/cgroup.procs; exec "$@"'
        spaces = ["unshare", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child"]
        # A process that stays in the first mount namespace, see `OUTSIDE`.
        spaces += ["bash", "-c", 'sleep infinity & outside=$! exec unshare --mount "$@"', "bash"]
        boot = ["bash", str(HERE / "boot_systemd.sh"), str(scratch), str(scratch / "units"), str(COLLECTOR)]
        with self._console.open("w") as console:
            self._unshare = subprocess.Popen(
                ["bash", "-c", join, "bash", *spaces, *boot], stdin=subprocess.DEVNULL, stdout=console, stderr=console
            )
        try:
            self._init = wait_for(self._find_init, "PID 1")
            wait_for(lambda: self.show("collector.service", "ActiveState") == "active", self._complaint())
        except BaseException:
            self.close()
            raise

    def _write(self, directory: Path, units: dict[str, str]) -> None:
        # A developer's interpreter may live in a home, which the shipped units do not see.
        shipped = {path.name: path.read_text().replace("ProtectHome=", "#") for path in UNITS.glob("*.[ps]*")}
        plain = {f"{name}.d/plain.conf": PLAIN for name in (*shipped, *units) if "/" not in name}
        target = {"test.target": f"{PLAIN}Requires=collector.service\nAfter=collector.service\n"}
        for name, text in (shipped | plain | units | target).items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(text)

    def _find_init(self) -> str:
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children").read_text().split()
        return children[0] if children else ""

    def _complaint(self) -> str:
        return f"active collector.service; see {self._console}"

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the machine."""
        return subprocess.run(self.entering(*command), capture_output=True, text=True, check=False, timeout=60)

    def entering(self, *command: str) -> list[str]:
        """Return what runs a command on the machine."""
        return ["nsenter", "-t", self._init, "-p", "-m", "-u", "-i", "-C", *command]

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", unit, "-p", name, "--value").stdout.strip()

    def configure(self, text: str) -> subprocess.CompletedProcess[str]:
        """Write the configuration and have the service reload it."""
        write = f"mkdir -p /etc/collector\ncat > /etc/collector/collector.yaml <<'EOF'\n{text}\nEOF\n"
        return self.run("bash", "-c", f"{write}systemctl reload collector.service")

    def incidents(self) -> list[dict[str, Any]]:
        """Return the manifests in the archive."""
        return [json.loads(path.read_text()) for path in sorted(self.archive.glob("*Z-??????/manifest.json"))]

    def close(self) -> None:
        """Kill the machine and remove its cgroups."""
        self._unshare.kill()
        self._unshare.wait()
        wait_for(self._removed, "end of the machine's processes")

    def _removed(self) -> bool:
        """Remove the cgroups that systemd made, innermost first."""
        try:
            for directory, _, _ in os.walk(self._cgroup, topdown=False):
                os.rmdir(directory)
        except OSError:
            return False
        return True
