"""A clean Debian 12, the packages, and a machine that boots the one and installs the other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from harness import HERE, wait_for
from systemd_machine import UNIFIED, Machine

ROOT = HERE.parents[1]
SERVICE = "collector.service"
NONINTERACTIVE = ["env", "DEBIAN_FRONTEND=noninteractive"]


def make_tree(directory: Path) -> Path:
    """Install what each Debian server has, and the one package that ours depends on, into *directory*."""
    include = "--include=systemd,systemd-sysv,procps,ca-certificates,python3.11"
    command = ["mmdebstrap", "--quiet", "--variant=minbase", include, "bookworm", str(directory)]
    subprocess.run(command, check=True, timeout=300)
    # dpkg syncs each file: a minute of a busy disk for the eight times that one test installs it.
    (directory / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n", encoding="utf-8")
    return directory


def make_checkout(directory: Path, *, umask: int = 0o022) -> Path:
    """Copy what git knows of this checkout into *directory*, as somebody with *umask* would get it."""
    names = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
    ).stdout
    directory.mkdir()
    before = os.umask(umask)
    try:
        for name in map(os.fsdecode, filter(None, names.split(b"\0"))):
            if (ROOT / name).exists():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, directory / name)
                (directory / name).chmod((ROOT / name).stat().st_mode & 0o777 & ~umask)
    finally:
        os.umask(before)
    return directory


def build(checkout: Path, *, release: int = 1, umask: int = 0o022) -> dict[str, Path]:
    """Run `make packages` in *checkout*; return the package of *release* in each format."""
    subprocess.run(
        ["make", "-C", checkout, "packages", f"RELEASE={release}", f"PYTHON311={sys.executable}"],
        check=True,
        capture_output=True,
        env=os.environ | {"SOURCE_DATE_EPOCH": "1764300000"},
        umask=umask,
        timeout=180,
    )
    return {form: next(checkout.glob(f"dist/*-{release}[._]*.{form}")) for form in ("deb", "rpm")}


class Overlay:
    """A tree that is not running: the clean one below, what is written above; nothing runs in it but the commands."""

    def __init__(self, tree: Path, scratch: Path) -> None:
        for name in ("root", "upper", "work"):
            (scratch / name).mkdir(parents=True)
        self.root = scratch / "root"
        layers = f"lowerdir={tree},upperdir={scratch / 'upper'},workdir={scratch / 'work'}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, self.root], check=True)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the tree."""
        return run("chroot", str(self.root), *command)

    def close(self) -> None:
        """Unmount it."""
        subprocess.run(["umount", "-R", self.root], check=True)


class DebianMachine(Machine):
    """
    A booted tree.

    Args:
        tree: The clean tree, which is only read.
        scratch: A directory on a disk; what is in its ``upper`` already is on the machine.
        network: Whether it has the network of the machine outside; else none.
    """

    def __init__(self, tree: Path, scratch: Path, *, network: bool = False) -> None:
        scratch.mkdir(exist_ok=True)
        self._spaces = [] if network else ["--net"]
        self.archive = scratch / "archive"
        self._console = scratch / "console"
        self._cgroup = UNIFIED / f"collector-tree-{os.getpid()}"
        self._cgroup.mkdir()
        join = f'echo 0 > {self._cgroup}/cgroup.procs; exec "$@"'
        spaces = ["unshare", "--pid", "--uts", "--ipc", "--cgroup", "--mount", "--fork", "--kill-child", *self._spaces]
        boot = ["bash", str(HERE / "boot_tree.sh"), str(tree), str(scratch)]
        with self._console.open("w") as console:
            self._unshare = subprocess.Popen(
                ["bash", "-c", join, "bash", *spaces, *boot], stdin=subprocess.DEVNULL, stdout=console, stderr=console
            )
        try:
            self._init = wait_for(self._find_init, "PID 1")
            wait_for(self._booted, f"booted machine; see {self._console}")
        except BaseException:
            self.close()
            raise

    def _booted(self) -> bool:
        return self.run("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")

    def entering(self, *command: str) -> list[str]:
        """Return what runs a command on the machine."""
        spaces = ["-p", "-m", "-u", "-i", "-C", *self._spaces]
        return ["nsenter", "-t", self._init, *spaces, *NONINTERACTIVE, *command]

    def give(self, package: Path) -> str:
        """Copy *package* to the machine; return its path there."""
        with package.open("rb") as data:
            subprocess.run(
                self.entering("tee", f"/root/{package.name}"), check=True, stdin=data, stdout=subprocess.DEVNULL
            )
        return f"/root/{package.name}"

    def must(self, *command: str) -> str:
        """Run a command that must succeed; return what it prints."""
        done = self.run(*command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def read(self, path: str) -> str:
        """Return the text of a file on the machine."""
        return self.must("cat", path)

    def write(self, path: str, text: str) -> None:
        """Write a file on the machine."""
        self.must("sh", "-c", 'mkdir -p "${1%/*}"; printf %s "$2" > "$1"', "sh", path, text)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a system administrator would, who is not at a terminal."""
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", check=False, timeout=120
    )
