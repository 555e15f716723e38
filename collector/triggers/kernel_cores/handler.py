"""
What the kernel starts for a crash, before Linux 6.17: passes the pipe with the dump to the daemon, and ends.

It is copied into the runtime directory and run by itself, in the initial namespaces and outside the daemon's unit, once
for each crash: so it imports next to nothing. The process that crashed is held until nobody has the pipe open any more.
"""

import _socket
import os
import sys

SOCKET_NAME = "handler.sock"
WAIT_S = 5
"""How long a crash may wait for a place in the queue of a daemon that does not take it over."""


def main() -> int:
    """Pass on standard input, and a pidfd of the process whose number is the first argument."""
    pid = int(sys.argv[1])
    where = os.path.join(os.path.dirname(os.path.abspath(__file__)), SOCKET_NAME)
    try:
        descriptors = (0, os.pidfd_open(pid))
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        # struct timeval; connect(2) waits for no longer either
        timeout = WAIT_S.to_bytes(8, sys.byteorder) + bytes(8)
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, timeout)
        sock.connect(where)
        passed = b"".join(fd.to_bytes(4, sys.byteorder) for fd in descriptors)
        sock.sendmsg([b"dump"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, passed)])
    except OSError as exc:
        _log(f"collector: the core of process {pid} is lost: {where}: {exc.strerror}\n")
        return 1
    return 0


def _log(line: str) -> None:
    """Write to the kernel's log, at level "warning" of the facility "user"."""
    log = os.open("/dev/kmsg", os.O_WRONLY)
    os.write(log, f"<12>{line}".encode())


if __name__ == "__main__":
    os._exit(main())
