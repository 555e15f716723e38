"""Names in an export: for people, and harmless on any file system, whatever the sources were called."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.model.artifact import ArtifactRecord
from collector.model.text import escape
from collector.report.member_names import member_names

PART = re.compile(r"[A-Za-z0-9_+=@,%][A-Za-z0-9._+=@,%~-]{0,199}")


def named(*sources: bytes, others: tuple[str, ...] = ()) -> list[str]:
    """Return the names of segments with these sources, and of *others*."""
    artifacts = [
        ArtifactRecord(path=f"segments/segments/{number:04}", source=escape(source), size_bytes=1, data_bytes=1)
        for number, source in enumerate(sources, 1)
    ]
    return [name.removeprefix("segments/segments/") for name in member_names(artifacts, others).values()]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (b"/dev/shm/engine.main", "engine.main"),
        (b"/dev/shm/a/b", "a/b"),
        (b"/dev/shm/engine.main (deleted)", "engine.main.deleted"),
        (b"memfd:ring", "memfd%3Aring"),
        (b"SYSV0000162e", "SYSV0000162e"),
        (b"/var/log/app/app.log", "var/log/app/app.log"),
        (b"/dev/shm/../../etc/passwd", "%2E./%2E./etc/passwd"),
        (b"/dev/shm/-rf", "%2Drf"),
        (b"/dev/shm/a\nb\x1b", "a%0Ab%1B"),
        (b"/dev/shm/\xff\xfe", "%FF%FE"),
        (b"/dev/shm/a\\b", "a%5Cb"),
        (b"/dev/shm/50%41", "50%2541"),
        (b"/dev/shm/C:x~2", "C%3Ax%7E2"),
        (b"/", "%"),
    ],
)
def test_member_is_called_as_its_source_was(source: bytes, name: str) -> None:
    """As far as that is harmless; what is not is to be seen, and can be undone."""
    assert named(source) == [name]


def test_members_of_the_same_name_are_numbered() -> None:
    """Also those that only some file systems tell apart, and a name that is a file and a directory."""
    assert named(b"x", b"X", b"x", b"/dev/shm/x") == ["x", "X~2", "x~3", "x~4"]
    assert named(b"a", b"a/b", b"a/b/c") == ["a", "a%2Fb", "a%2Fb%2Fc"]
    assert named(b"a/b", b"a") == ["a/b", "a~2"]


def test_member_never_takes_the_name_of_a_file_of_the_collector() -> None:
    """A segment may be called as the list of segments is."""
    rows = ArtifactRecord(path="s/files.jsonl", size_bytes=1, data_bytes=1)
    log = ArtifactRecord(path="s/0001", source="files.jsonl", size_bytes=1, data_bytes=1)
    assert member_names([log, rows], ()) == {"s/files.jsonl": "s/files.jsonl", "s/0001": "s/files.jsonl~2"}


SOURCES = st.lists(st.binary(min_size=1, max_size=300), max_size=8)
OTHERS = st.lists(st.binary(min_size=1, max_size=80), max_size=4)


@given(SOURCES, OTHERS)
def test_members_can_be_unpacked_anywhere(sources: list[bytes], others: list[bytes]) -> None:
    """Relative, printable, short, each its own, and none is a file where another needs a directory."""
    paths = tuple(dict.fromkeys(os.fsdecode(b"segments/" + path) for path in others))
    names = named(*sources, others=paths)
    assert len(names) == len({name.casefold() for name in names}) == len(sources) + len(paths)
    for name in names:
        assert all(PART.fullmatch(part) for part in name.split("/")), name
        assert not any(other.casefold().startswith(f"{name.casefold()}/") for other in names), name
