"""Debian's own kernel, in a virtual machine without network whose disk is made from a tree of Debian's packages."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness import HERE

PACKAGES = ("systemd-sysv", "udev", "kmod", "linux-image-amd64", "initramfs-tools", "procps", "python3.11")
UNUSED = ("doc", "man", "locale")
UNUSED_MODULES = ("drivers/gpu", "drivers/net", "drivers/media", "drivers/infiniband", "sound")
MODULES = "virtio_pci\nvirtio_blk\next4\n"
MEMORY_MIB = 2048
MASKED = ("e2scrub_reap.service", "fstrim.timer", "systemd-random-seed.service", "getty@tty1.service")
AGENT = """[Unit]
DefaultDependencies=no
Requires=dev-virtio\\x2dports-agent.device
After=dev-virtio\\x2dports-agent.device
[Service]
ExecStart=/usr/bin/python3.11 /root/agent.py /dev/virtio-ports/agent
OOMScoreAdjust=-1000
"""
STARTED_S = 180.0
COMMAND_S = 120.0


def make_tree_with_kernel(tree: Path) -> None:
    """Install Debian with its kernel into *tree*."""
    excluded = [f"/lib/modules/*/kernel/{name}/*" for name in UNUSED_MODULES]
    excluded += [f"/usr/share/{name}/*" for name in UNUSED]
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in excluded]
    options += ["--dpkgopt=force-unsafe-io", f"--include={','.join(PACKAGES)}"]
    listed = [
        f"--customize-hook=printf '%s' {shlex.quote(MODULES)} >\"$1\"/etc/initramfs-tools/modules",
        '--customize-hook=echo MODULES=list >"$1"/etc/initramfs-tools/conf.d/list',
        '--customize-hook=chroot "$1" update-initramfs -u',
    ]
    command = ["mmdebstrap", "--quiet", "--variant=minbase", *options, *listed, "bookworm", str(tree)]
    subprocess.run(command, check=True, timeout=300)


class VirtualMachine:
    """
    A machine of 2 GiB without swap.

    Args:
        tree: What is on its disk.
        scratch: A directory for the disk, 6 GiB sparse, and what the console says.
    """

    def __init__(self, tree: Path, scratch: Path) -> None:
        self._prepare(tree)
        disk = scratch / "disk"
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(disk), "6G"], check=True)
        self.console = scratch / "console"
        agent = scratch / "agent"
        boot = tree / "boot"
        arguments = {
            "machine": "q35",
            "accel": "tcg,thread=multi",
            "cpu": "max",
            "smp": "2",
            "m": str(MEMORY_MIB),
            "nic": "none",
            "display": "none",
            "kernel": next(boot.glob("vmlinuz-*")),
            "initrd": next(boot.glob("initrd.img-*")),
            "append": "root=/dev/vda rw console=ttyS0 mitigations=off loglevel=4",
            "drive": f"file={disk},if=virtio,format=raw,cache=unsafe",
            "serial": f"file:{self.console}",
            "chardev": f"socket,id=agent,path={agent},server=on,wait=off",
        }
        options = [text for name, value in arguments.items() for text in (f"-{name}", str(value))]
        devices = ["-nodefaults", "-device", "virtio-serial", "-device", "virtserialport,chardev=agent,name=agent"]
        self._qemu = subprocess.Popen(["qemu-system-x86_64", *options, *devices], stdin=subprocess.DEVNULL)
        try:
            self._connect(agent)
            self.wait_for_start()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _prepare(tree: Path) -> None:
        units = tree / "etc/systemd/system"
        (tree / "root/agent.py").write_bytes((HERE / "vm_agent.py").read_bytes())
        (units / "agent.service").write_text(AGENT, encoding="utf-8")
        wanted = units / "multi-user.target.wants/agent.service"
        wanted.parent.mkdir(exist_ok=True)
        for link, target in [(wanted, "../agent.service"), *((units / name, "/dev/null") for name in MASKED)]:
            link.unlink(missing_ok=True)
            link.symlink_to(target)

    def _connect(self, path: Path) -> None:
        end = time.monotonic() + STARTED_S
        while not path.exists():
            assert self._qemu.poll() is None, "qemu has ended"
            assert time.monotonic() < end, "qemu does not listen"
            time.sleep(0.1)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._answers = self._socket.makefile("rb")

    def _answer(self, timeout_s: float) -> Any:
        self._socket.settimeout(timeout_s)
        return json.loads(self._answers.readline())

    def wait_for_start(self) -> None:
        """Wait until it has booted, and all its services are started."""
        while self._answer(STARTED_S) != "ready":  # what it was asked last, before a reboot
            pass
        self.ask("systemctl", "is-system-running", "--wait")

    def ask(self, *command: str) -> tuple[int, str]:
        """Run a command in it; return its exit status and output."""
        self._socket.sendall(json.dumps(command).encode() + b"\n")
        status, output = self._answer(COMMAND_S)
        return status, output

    def run(self, *command: str) -> str:
        """Run a command that must not fail."""
        status, output = self.ask(*command)
        assert status == 0, (command, status, output)
        return output

    def shell(self, script: str) -> str:
        """Run a script that must not fail."""
        return self.run("sh", "-ec", script)

    def wait_for(self, script: str) -> None:
        """Wait until a script succeeds."""
        self.run("timeout", "60", "sh", "-c", f"until {script} 2>/dev/null; do sleep 0.5; done")

    def reboot(self) -> None:
        """Restart it as an operator would, and wait until it has booted."""
        self._socket.sendall(json.dumps(["systemctl", "reboot"]).encode() + b"\n")
        self.wait_for_start()

    def write(self, path: str, text: str) -> None:
        """Write a small file in it."""
        self.run("sh", "-ec", 'mkdir -p "$(dirname "$1")"; printf "%s" "$2" >"$1"', "sh", path, text)

    def counters(self, path: str, names: Iterable[str]) -> dict[str, int]:
        """Return some lines ``name value`` of a file of its kernel; lines that begin with a name are added."""
        rows = [line.split() for line in self.run("cat", path).splitlines()]
        return {name: sum(int(row[1]) for row in rows if row[0].startswith(name)) for name in names}

    def close(self) -> None:
        """End it."""
        self._qemu.kill()
        self._qemu.wait()
