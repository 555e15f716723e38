from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from collecting import Collected, collect, context

from collector.collectors.files.files import End, Files
from collector.model.artifact import Bulk, Truncated

NOBODY = 65534


def files(*paths: Path | str, **fields: object) -> Collected:
    return collect(Files(paths=tuple(map(str, paths)), **fields))  # type: ignore[arg-type]


def taken(collected: Collected) -> dict[str, bytes]:
    """Return what was taken, by the file's base name."""
    rows = collected.rows("files.jsonl")
    return {row["path"].rpartition("/")[2]: collected[row["artifact"]] for row in rows if row["artifact"] in collected}


def write(path: Path, data: bytes, *, age_s: float = 0.0) -> None:
    path.write_bytes(data)
    os.utime(path, (1e9 - age_s, 1e9 - age_s))


def test_files_are_copied_the_newest_first(tmp_path: Path) -> None:
    """If there is no room for all, the newest matter most."""
    for name, age_s in (("old.log", 100.0), ("new.log", 0.0), ("middle.log", 50.0)):
        write(tmp_path / name, name.encode(), age_s=age_s)
    collected = files(tmp_path / "*.log")
    assert list(taken(collected).items()) == [(name, name.encode()) for name in ("new.log", "middle.log", "old.log")]
    assert list(collected.artifacts) == ["files.jsonl", "files/0001", "files/0002", "files/0003"]


@pytest.mark.parametrize(("end", "offset", "data"), [(End.HEAD, 0, b"a" * 4096), (End.TAIL, 8192, b"c" * 4096)])
def test_files_that_are_too_long_keep_one_end(tmp_path: Path, end: End, offset: int, data: bytes) -> None:
    """Marked truncated, with the offset of its first byte."""
    (tmp_path / "log").write_bytes(b"a" * 4096 + b"b" * 4096 + b"c" * 4096)
    collected = files(tmp_path / "log", max_bytes=4096, end=end)
    assert taken(collected) == {"log": data}
    assert collected.artifacts["files/0001"].artifact.truncated
    assert collected.rows("files.jsonl")[0]["offset"] == offset


def test_files_tail_begins_at_a_page_and_is_never_longer_than_asked(tmp_path: Path) -> None:
    """The copy engine maps whole pages; the limit still applies."""
    (tmp_path / "log").write_bytes(os.urandom(100_000))
    collected = files(tmp_path / "log", max_bytes=10_000)
    (row,) = collected.rows("files.jsonl")
    assert row["offset"] % 4096 == 0
    assert taken(collected)["log"] == (tmp_path / "log").read_bytes()[row["offset"] :]
    assert 10_000 - 4096 < len(taken(collected)["log"]) <= 10_000


def test_files_stay_within_number_and_total(tmp_path: Path) -> None:
    """What was left out is reported."""
    for number in range(5):
        write(tmp_path / f"{number}.log", b"x" * 100, age_s=number)
    collected = files(tmp_path / "*", max_files=2)
    assert list(taken(collected)) == ["0.log", "1.log"]
    assert "beyond max_total or max_files" in str(collected.artifacts["files.jsonl"].cut)
    collected = files(tmp_path / "*", max_total=250)
    assert list(taken(collected)) == ["0.log", "1.log"]
    assert len(collected.rows("unread.jsonl")) == 3


def test_files_named_by_two_globs_are_taken_once(tmp_path: Path) -> None:
    """They are compared by path."""
    write(tmp_path / "a.log", b"a")
    assert len(taken(files(tmp_path / "*.log", tmp_path / "a.*"))) == 1


def test_files_go_through_the_copy_engine(tmp_path: Path) -> None:
    """A gigabyte is passed on as a descriptor, not read into memory."""
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 30)
    for artifact in Files(paths=(str(tmp_path / "large"),)).collect(context()):
        if artifact.path.name == "0001":
            assert isinstance(artifact.body, Bulk)
            os.close(artifact.body.fd)


@pytest.mark.root
def test_files_opens_nothing_but_regular_files(tmp_path: Path) -> None:
    """A FIFO, a socket, a symlink to a root-only file, a device, a directory: listed, never read."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "symlink").symlink_to("/etc/shadow")
    os.mknod(tmp_path / "device", 0o666 | 0o020000, os.makedev(1, 5))
    (tmp_path / "directory").mkdir()
    write(tmp_path / "file", b"evidence")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        collected = files(tmp_path / "*")
    assert taken(collected) == {"file": b"evidence"}
    meanings = {row["path"].rpartition("/")[2]: row["meaning"] for row in collected.rows("unread.jsonl")}
    assert set(meanings) == {"fifo", "symlink", "device", "directory", "socket"}
    assert all("not a regular file" in meaning for meaning in meanings.values())


@pytest.mark.root
def test_files_follow_no_symlink_that_a_user_planted(tmp_path: Path) -> None:
    """In another user's directory, neither the last name nor one on the way is followed."""
    home = tmp_path / "home"
    (home / "real").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    write(tmp_path / "secret" / "x.log", b"root only")
    (home / "logs").symlink_to(tmp_path / "secret")
    (home / "x.log").symlink_to(tmp_path / "secret" / "x.log")
    for name in ("logs", "x.log"):
        os.chown(home / name, NOBODY, NOBODY, follow_symlinks=False)
    for glob in (home / "logs" / "x.log", home / "*" / "x.log", home / "x.log", home / "**" / "*.log", home / "*"):
        assert b"root only" not in files(glob).everything(), glob


def test_files_that_are_replaced_before_they_are_opened_are_refused(tmp_path: Path) -> None:
    """The listed file counts; another one is not copied in its place."""
    write(tmp_path / "a", b"evidence")
    write(tmp_path / "b", b"planted")
    steps = Files(paths=(str(tmp_path / "a"),)).collect(context())
    next(steps)
    (tmp_path / "b").rename(tmp_path / "a")
    assert str(next(steps).path) == "unread.jsonl"
    with pytest.raises(Truncated, match=r"not read: .*/a"):
        next(steps)


def test_files_that_are_named_and_not_there_are_missing(tmp_path: Path) -> None:
    """Each glob counts: a log that another program writes does not make up for it."""
    write(tmp_path / "a.log", b"evidence")
    for absent in ("none.log", "*.txt", "missing/*.log", "missing/**/x", "[b]"):
        collected = files(tmp_path / "*.log", tmp_path / absent)
        assert taken(collected) == {"a.log": b"evidence"}
        assert collected.missing == f"no file matches {tmp_path}/{absent}"
    assert files(tmp_path / "*.log", tmp_path / "a*").missing == ""
    (tmp_path / "planted.txt").symlink_to("a.log")
    assert "no file matches" in files(tmp_path / "*.txt").missing


@pytest.mark.parametrize("name", [b"a\nb", b"\x1b[2J", b"\xff\xfe", b"-rf", b"a..."])
def test_files_names_form_no_path(tmp_path: Path, name: bytes) -> None:
    """Artifacts are numbered; the name is data, escaped, in the list and in the manifest."""
    (tmp_path / os.fsdecode(name)).write_bytes(b"evidence")
    collected = files(tmp_path / "*")
    assert collected["files/0001"] == b"evidence"
    source = collected.artifacts["files/0001"].artifact.source
    assert source is not None
    assert source.path.isprintable()


def test_files_without_length_are_read_to_a_limit(tmp_path: Path) -> None:
    """The kernel's own files have length 0: they are read up to the limit."""
    (tmp_path / "empty").write_bytes(b"")
    assert taken(files(tmp_path / "empty")) == {"empty": b""}
    made_up = "/sys/kernel/mm/transparent_hugepage/enabled"
    with pytest.raises(ValueError, match="proc_files"):
        Files(paths=(made_up,))


@pytest.mark.parametrize(
    "path", ["relative.log", "/a/../etc/shadow", "/a/./b", "/a/", "/proc/1/environ", "/sys/x", "", "/"]
)
def test_files_refuses_invalid_paths(path: str) -> None:
    """When the configuration is loaded, not at the crash."""
    with pytest.raises(ValueError, match=r"path|proc"):
        Files(paths=(path,))


MEASURE = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from collecting import context, take
from collector.collectors.files.files import Files
import os
for artifact in Files(paths=(sys.argv[2],), max_bytes=1 << 40, max_total=1 << 40).collect(context()):
    if hasattr(artifact.body, "fd"):
        os.close(artifact.body.fd)
    else:
        take(artifact)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_files_list_of_many_takes_bounded_memory(tmp_path: Path) -> None:
    """Twenty thousand files match, a thousand are kept in memory (4 MiB of slack for the allocator)."""
    few, many = tmp_path / "few", tmp_path / "many"
    for directory, count in ((few, 1000), (many, 20_000)):
        directory.mkdir()
        for number in range(count):
            os.close(os.open(directory / str(number), os.O_CREAT | os.O_WRONLY))
    peaks = []
    for directory in (few, many):
        argv = [sys.executable, "-c", MEASURE, str(Path(__file__).parents[1]), f"{directory}/*"]
        peaks.append(int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] - peaks[0] <= 4096
