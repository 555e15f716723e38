"""Real segments, real file systems on loop devices, and what the kernel says about their pages."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from machine import need

from collector.copying import engine
from collector.host.syscalls import CacheStat, cachestat
from collector.model.copying import CopyReport, CopySettings, MethodChoice

MIB = 1 << 20
FAST = CopySettings(rate="max")
MMAP = CopySettings(rate="max", method=MethodChoice.MMAP)
SPLICE = CopySettings(rate="max", method=MethodChoice.SPLICE)
BOUNCE = CopySettings(rate="max", method=MethodChoice.BOUNCE)


@dataclass(frozen=True)
class Destination:
    """A destination: its path and a descriptor on it."""

    path: Path
    fd: int

    def names(self) -> list[str]:
        return sorted(os.listdir(self.fd))


@contextlib.contextmanager
def opened_directory(path: Path) -> Iterator[Destination]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Destination(path, fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def segment(size: int, *, pieces: list[tuple[int, bytes]] | None = None, directory: str = "/dev/shm") -> Iterator[Path]:
    """Make a segment: dense random bytes, or a hole with *pieces* in it."""
    path = Path(directory) / f"collector-test-{uuid.uuid4().hex}"
    try:
        with path.open("xb") as file:
            if pieces is None:
                whole, rest = divmod(size, MIB)
                for part in [MIB] * whole + [rest] * bool(rest):
                    file.write(os.urandom(part))
            else:
                file.truncate(size)
                for offset, data in pieces:
                    os.pwrite(file.fileno(), data, offset)
        yield path
    finally:
        path.unlink(missing_ok=True)


def scattered(size: int, count: int, length: int, seed: int = 1) -> list[tuple[int, bytes]]:
    """Return *count* pieces of random bytes, spread over *size*."""
    rng = random.Random(seed)
    stride = size // count // 4096 * 4096
    return [
        (i * stride + rng.randrange(0, stride - length) // 4096 * 4096, rng.randbytes(length)) for i in range(count)
    ]


def copied(
    source: Path, target: Destination, name: str = "copy", settings: CopySettings = FAST, **more: object
) -> CopyReport:
    fd = os.open(source, os.O_RDONLY)
    try:
        return engine.copy(fd, directory_fd=target.fd, name=name, settings=settings, **more)  # type: ignore[arg-type]
    finally:
        os.close(fd)


def cached(path: Path) -> CacheStat:
    """Return the pages of a file that are in the page cache."""
    fd = os.open(path, os.O_RDONLY)
    try:
        found = cachestat(fd)
        assert found is not None
        return found
    finally:
        os.close(fd)


def same(first: Path, second: Path) -> bool:
    return subprocess.run(["cmp", "-s", first, second], check=False).returncode == 0


def blocks_bytes(path: Path) -> int:
    return path.stat().st_blocks * 512


def memory_kib(*names: str) -> int:
    """Return the sum of fields of ``/proc/self/status`` in KiB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(fields[name].split()[0]) for name in names)


def run(*command: object) -> str:
    need(str(command[0]))
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@contextlib.contextmanager
def loop_device(image: Path, *, sector: int = 512, direct: bool = True) -> Iterator[str]:
    device = run("losetup", "--find", "--show", f"--direct-io={'on' if direct else 'off'}", "-b", sector, image)
    try:
        yield device
    finally:
        run("losetup", "-d", device)


@contextlib.contextmanager
def file_system(
    base: Path,
    kind: str,
    *,
    size: int = 512 * MIB,
    options: str = "rw",
    sector: int = 512,
    direct: bool = True,
    features: tuple[str, ...] = (),
) -> Iterator[Path]:
    """Make and mount a file system on a loop device below *base*."""
    need("root")
    image, point = base / f"{uuid.uuid4().hex}.img", base / f"{uuid.uuid4().hex}.mnt"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(size)
    try:
        with loop_device(image, sector=sector, direct=direct) as device:
            run(f"mkfs.{kind}", "-q", *features, device)
            with mounted(device, point, kind, options):
                yield point
    finally:
        image.unlink()
        point.rmdir()


@contextlib.contextmanager
def overlay(upper_file_system: Path, point: Path) -> Iterator[Path]:
    """Mount an overlay at *point* whose upper layer is on *upper_file_system*."""
    for name in ("lower", "upper", "work"):
        (upper_file_system / name).mkdir(exist_ok=True)
    point.mkdir()
    options = ",".join(f"{name}dir={upper_file_system / name}" for name in ("lower", "upper", "work"))
    with mounted("overlay", point, "overlay", options):
        yield point


@contextlib.contextmanager
def mounted(what: object, point: Path, kind: str, options: str) -> Iterator[Path]:
    need("root")
    run("mount", "-t", kind, "-o", options, what, point)
    try:
        yield point
    finally:
        for left in range(50, -1, -1):
            try:
                run("umount", point)
                break
            except subprocess.CalledProcessError:  # a process that was killed there is still in its last fsync
                if not left:
                    raise
                time.sleep(0.1)
