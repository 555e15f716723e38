"""A socket for process supervisors that must not fork at crash time: one datagram, one crash."""

from __future__ import annotations

import contextlib
import grp
import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from collector.model.errors import CollectorError
from collector.model.knowledge import FACTS, Knowledge
from collector.model.marker import Marker, MarkerKind
from collector.model.shares import PerMinute
from collector.triggers.base import TriggerContext, Watch
from collector.triggers.facts import Facts, Speaker, marker_of, parse
from collector.triggers.socket_name import free_name, lost_name

SOCKET_NAME = "notify.sock"
DATAGRAM_BYTES = 8192
DATAGRAMS_PER_READ = 64
POLL_S = 1.0
READ_PER_MINUTE = 1200
"""Beyond his share of these, a sender's datagrams are refused unread, which takes a tenth of the time."""

_UCRED = struct.Struct("=iII")


@dataclass(frozen=True, slots=True, kw_only=True)
class Notify:
    """
    Listen for datagrams of KEY=VALUE lines.

    Args:
        socket: Path of the socket; if empty, ``notify.sock`` in the runtime directory, which only root
            can reach.
        uids: Users who may send, besides root and the daemon's own.
        unprivileged: ``refuse`` datagrams of all other users, or ``attribute`` them to their sender.
        group: Members of this group may send, too; the socket is then ``root:GROUP``, mode 0660: closed to all others.
    """

    name: ClassVar[str] = "notify"
    knows: ClassVar[Knowledge] = Knowledge(facts=frozenset(FACTS), free_text=True)
    socket: str = ""
    uids: tuple[int, ...] = ()
    unprivileged: Literal["refuse", "attribute"] = "refuse"
    group: str = ""

    def open(self, ctx: TriggerContext) -> NotifyWatch:
        """Bind the socket; raise `DeniedError` if others may write to its directory, or something else has its name."""
        gid = _group_id(self.group, ctx.id) if self.group else -1
        path = self.socket or os.path.join(ctx.runtime_directory, SOCKET_NAME)
        free_name(path, ctx.id)
        flags = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        server = socket.socket(socket.AF_UNIX, flags)
        try:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            os.fchmod(server.fileno(), 0o600)  # the mode that bind gives the name: it is never open to others
            server.bind(path)
            if self.group:
                os.chown(path, -1, gid)
                os.chmod(path, 0o660)
            elif self.uids or self.unprivileged == "attribute":
                os.chmod(path, 0o666)  # noqa: S103 - senders are checked by their credentials
            info = os.lstat(path)
        except OSError as exc:
            server.close()
            raise CollectorError(f"trigger {ctx.id}: {path}: {exc.strerror}") from exc
        return NotifyWatch(self, ctx, server, path, (info.st_dev, info.st_ino))


@dataclass(slots=True)
class NotifyWatch(Watch):
    """An opened `Notify`."""

    trigger: Notify
    ctx: TriggerContext
    server: socket.socket
    path: str
    inode: tuple[int, int]
    lost: int = 0
    poll_s: float | None = POLL_S
    shares: PerMinute = field(default_factory=lambda: PerMinute(READ_PER_MINUTE))

    @property
    def gone(self) -> str | None:
        """Why senders no longer reach this socket: its name or its directory was removed or replaced."""
        return lost_name(self.path, self.inode)

    def fileno(self) -> int:
        return self.server.fileno()

    def read(self) -> Iterator[Marker]:
        for _ in range(DATAGRAMS_PER_READ):
            try:
                data, ancillary, flags, _ = self.server.recvmsg(DATAGRAM_BYTES, socket.CMSG_SPACE(_UCRED.size))
            except BlockingIOError:
                return
            credentials = _credentials(ancillary)
            if credentials is None:
                self.lost += 1  # sent before SO_PASSCRED, when the socket had no name yet
                continue
            pid, uid = credentials
            refused = self._refusal(uid, too_long=bool(flags & socket.MSG_TRUNC))
            speaker = Speaker(
                kind=MarkerKind.NOTIFICATION, trigger=self.ctx.id, uid=uid, refused=refused,
                what=f"notification from process {pid} of uid {uid}", sender=pid,
            )  # fmt: skip
            yield marker_of(Facts({}) if refused else parse(data), speaker, self.ctx.host)

    def close(self) -> None:
        """Close the socket and remove its name, unless a successor has taken it."""
        self.server.close()
        if self.gone is None:
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    def _refusal(self, uid: int, *, too_long: bool) -> str | None:
        """Return why a datagram must not be collected; ``None`` if it may be."""
        closed = self.trigger.unprivileged == "refuse" and not self.trigger.group  # else its mode lets in who may
        if closed and uid not in {0, os.geteuid(), *self.trigger.uids}:
            return f"uid {uid} may not notify"
        if not self.shares.take(self.ctx.owners.of(uid), time.monotonic()):
            return f"more than the share of uid {uid} of {READ_PER_MINUTE} notifications a minute"
        return f"longer than {DATAGRAM_BYTES} bytes" if too_long else None


def _credentials(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, int] | None:
    """
    Return PID and uid of the sender.

    Descriptors that a sender passes along never get here: the buffer has room for the credentials only, and the
    kernel closes what does not fit.
    """
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS) and len(data) >= _UCRED.size:
            pid, uid, _ = _UCRED.unpack_from(data)
            return pid, uid
    return None


def _group_id(name: str, trigger: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise CollectorError(
            f"trigger {trigger}: there is no group {name!r}", hint=f"groupadd --system {name}"
        ) from None
