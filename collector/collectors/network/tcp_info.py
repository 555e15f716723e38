"""What the kernel knows of one TCP connection. Source: include/uapi/linux/tcp.h, struct tcp_info; tcp(7), TCP_INFO."""

from __future__ import annotations

import struct

TCP_INFO = 11
INFO_BYTES = 256
LISTEN = 10
STATES = (
    "", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK",
    "LISTEN", "CLOSING", "NEW_SYN_RECV",
)  # fmt: skip
# Name, layout and offset; older kernels return fewer bytes.
FIELDS = (
    ("retransmits", "=B", 2), ("probes", "=B", 3), ("backoff", "=B", 4), ("rto_us", "=I", 8), ("snd_mss", "=I", 16),
    ("unacked", "=I", 24), ("lost", "=I", 32), ("retrans", "=I", 36), ("last_data_sent_ms", "=I", 44),
    ("last_data_recv_ms", "=I", 52), ("last_ack_recv_ms", "=I", 56), ("rtt_us", "=I", 68), ("rttvar_us", "=I", 72),
    ("snd_cwnd", "=I", 80), ("total_retrans", "=I", 100), ("bytes_acked", "=Q", 120), ("bytes_received", "=Q", 128),
    ("notsent_bytes", "=I", 144), ("rwnd_limited_us", "=Q", 176), ("sndbuf_limited_us", "=Q", 184),
)  # fmt: skip
# Of a listening socket, the kernel puts its queue there.
BACKLOG = (("backlog", "=I", 24), ("backlog_max", "=I", 28))


def parse_tcp_info(raw: bytes) -> tuple[str, dict[str, int]]:
    """Return the state, and as many of the fields as the kernel returned; of a listening socket, its queue."""
    state = raw[0] if raw else 0
    wanted = BACKLOG if state == LISTEN else FIELDS
    found = {
        name: struct.unpack_from(layout, raw, at)[0]
        for name, layout, at in wanted
        if at + struct.calcsize(layout) <= len(raw)
    }
    return STATES[state] if state < len(STATES) else str(state), found
