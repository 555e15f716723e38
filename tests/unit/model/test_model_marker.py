"""How long a marker may be."""

from __future__ import annotations

import msgspec
import pytest

from collector.model.marker import IDENTITY, MARKER_BYTES, SHORTENED, CoreRef, Marker, MarkerKind, ProcessRef, shortened

MARKER = Marker(kind=MarkerKind.EXIT, trigger="exits", at_s=0.0, attributes={IDENTITY: "1:2:3", "SIGNAL": "SEGV"})


def core(path: str, watched: tuple[str, ...] = ()) -> CoreRef:
    return CoreRef(path=path, device=1, inode=2, size_bytes=3, mtime_ns=4, uid=5, watched=watched)


@pytest.mark.parametrize(
    "fields",
    [
        {"reason": "\\" * 100_000},
        {"reason": "\0" * 5000, "comm": "\0" * 5000, "exe": "\0" * 5000, "unit": "\0" * 5000, "image": "\0" * 5000},
        {"attributes": {f"K{number:063}": "\\" * 4096 for number in range(64)} | {IDENTITY: "1:2:3"}},
        {"attributes": {f"K{number}": "😀" for number in range(100_000)} | {IDENTITY: "1:2:3"}},
        {"core": core("\1" * 4096)},
        {"core": core("/core", tuple(f"/{number}/{'a' * 200}" for number in range(1024)))},
        {"also": tuple(ProcessRef(pid=4000077, start_time_ticks=1) for _ in range(10_000))},
        {"joined": ("t" * 64,) * 1000},
    ],
)
def test_marker_is_bounded_whatever_it_holds(fields: dict[str, object]) -> None:
    """Also if each character becomes six; it says that it was shortened, and is still recognized."""
    long = msgspec.structs.replace(MARKER, **fields)
    short = shortened(long)
    assert len(msgspec.json.encode(long)) > MARKER_BYTES >= len(msgspec.json.encode(short))
    assert short.attributes[SHORTENED]
    assert short.attributes[IDENTITY] == "1:2:3"


def test_marker_loses_its_longest_texts_first() -> None:
    """What fits is kept as it is; short values survive long ones."""
    assert shortened(MARKER) is MARKER
    long = msgspec.structs.replace(MARKER, reason="r" * 20_000, attributes=MARKER.attributes | {"NOTE": "n" * 3000})
    short = shortened(long)
    assert (short.attributes["SIGNAL"], len(short.attributes["NOTE"]), len(short.reason)) == ("SEGV", 2048, 2048)
