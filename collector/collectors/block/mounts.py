"""
Mounted file systems, and which of them can be asked for their free space.

statvfs(3) asks the server of a network or FUSE file system, which may never answer, and so does walking over one. So
only file systems whose answer is in this machine's memory are asked, and only by paths that lead through such. Source:
proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

import msgspec

from collector.host.files import Host, OpenFd
from collector.model.text import escape

# Their statfs takes no lock that is held during I/O. An overlay's is that of its upper layer, which may be a server's.
LOCAL = frozenset({
    b"ext2", b"ext3", b"ext4", b"xfs", b"btrfs", b"f2fs", b"bcachefs", b"jfs", b"reiserfs", b"vfat", b"exfat", b"ntfs3",
    b"iso9660", b"udf", b"squashfs", b"erofs", b"tmpfs", b"ramfs", b"devtmpfs", b"hugetlbfs", b"zfs",
})  # fmt: skip
# They hold no data, and are left out; walking over them asks nobody.
PSEUDO = frozenset({
    b"proc", b"sysfs", b"cgroup", b"cgroup2", b"devpts", b"mqueue", b"securityfs", b"debugfs", b"tracefs", b"bpf",
    b"pstore", b"efivarfs", b"configfs", b"binfmt_misc", b"fusectl", b"rpc_pipefs", b"nsfs", b"selinuxfs",
})  # fmt: skip
PASSABLE = LOCAL | PSEUDO | {b"overlay", b"rootfs"}
_OCTAL = re.compile(rb"\\([0-7]{3})")
_MOUNT_ID = re.compile(rb"^mnt_id:\t([0-9]+)$", re.MULTILINE)
FIELDS_BEFORE = 6
NO_ANSWER = "its server may not answer"
NOT_LOCAL = {b"overlay": "its upper layer's file system says it", b"autofs": "nothing is mounted there yet"}


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``mountinfo``, its bytes as the kernel writes them, except for the path, which is unescaped."""

    number: int
    parent: int
    device: bytes
    root: bytes
    path: bytes
    options: bytes
    kind: bytes
    source: bytes
    super_options: bytes


class FileSystemRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    A line of ``filesystems.jsonl``: one file system, where it is mounted first, and its use; *not_asked* says why not.

    Bytes; *files* are inodes, both 0 where a file system makes them as needed.
    """

    device: str
    kind: str
    source: str
    path: str
    mounts: int
    options: str
    super_options: str
    size: int | None = None
    free: int | None = None
    available: int | None = None
    files: int | None = None
    files_free: int | None = None
    not_asked: str = ""


def parse_mounts(text: bytes) -> Iterator[Mount]:
    """Yield the mounts in a ``mountinfo``; lines that are not are left out."""
    for line in text.split(b"\n"):
        before, separator, after = line.partition(b" - ")
        fields, rest = before.split(b" "), after.split(b" ")
        if not separator or len(fields) < FIELDS_BEFORE or len(rest) != 3:
            continue
        number, parent, device, root, path, options = fields[:FIELDS_BEFORE]
        if number.isdigit() and parent.isdigit():
            yield Mount(
                number=int(number),
                parent=int(parent),
                device=device,
                root=root,
                path=_OCTAL.sub(lambda octal: bytes([int(octal[1], 8) & 0xFF]), path),
                options=options,
                kind=rest[0],
                source=rest[1],
                super_options=rest[2],
            )


def file_systems(mounts: Iterable[Mount]) -> Iterator[tuple[FileSystemRow, Mount | None]]:
    """Yield each file system once, and the mount by which it can be asked; ``None`` if by none."""
    by_number = {mount.number: mount for mount in mounts}
    by_device: dict[tuple[bytes, bytes], list[Mount]] = {}
    for mount in by_number.values():
        by_device.setdefault((mount.device, mount.kind), []).append(mount)
    for (_, kind), own in by_device.items():
        if kind in PSEUDO:
            continue
        first = min(own, key=lambda mount: (mount.root != b"/", len(mount.path)))
        safe = [mount for mount in own if _is_safe(mount, by_number)] if kind in LOCAL else []
        asked = min(safe, key=lambda mount: (mount.root != b"/", len(mount.path)), default=None)
        yield _row(asked or first, len(own), "" if asked else _reason(kind)), asked


def _reason(kind: bytes) -> str:
    """Return why a file system is not asked how full it is."""
    return "its path leads over what may not answer" if kind in LOCAL else NOT_LOCAL.get(kind, NO_ANSWER)


def _is_safe(mount: Mount, by_number: dict[int, Mount]) -> bool:
    """Return whether the way to a mount leads over nothing that would have to be asked."""
    seen: set[int] = set()
    while (parent := by_number.get(mount.parent)) is not None and parent.number not in seen:
        if parent.kind not in PASSABLE:
            return False
        seen.add(parent.number)
        mount = parent
    return True


def _row(mount: Mount, count: int, not_asked: str) -> FileSystemRow:
    return FileSystemRow(
        device=escape(mount.device),
        kind=escape(mount.kind),
        source=escape(mount.source),
        path=escape(mount.path),
        mounts=count,
        options=escape(mount.options),
        super_options=escape(mount.super_options),
        not_asked=not_asked,
    )


def ask(host: Host, row: FileSystemRow, mount: Mount) -> FileSystemRow:
    """
    Return *row* with how full it is, or why that is not known: another mount may lie over it.

    Raises:
        OSError: From open(2) or fstatvfs(3).
    """
    # O_PATH mounts nothing: not what an automounter has let go of.
    with OpenFd(os.open(host.path(os.fsdecode(mount.path)), os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)) as fd:
        found = _MOUNT_ID.search(host.read(f"/proc/self/fdinfo/{fd}", limit=4096))
        if found is None or int(found[1]) != mount.number:
            return msgspec.structs.replace(row, not_asked="another file system is mounted over it")
        use = os.fstatvfs(fd)
    return msgspec.structs.replace(
        row,
        size=use.f_blocks * use.f_frsize,
        free=use.f_bfree * use.f_frsize,
        available=use.f_bavail * use.f_frsize,
        files=use.f_files,
        files_free=use.f_ffree,
    )
