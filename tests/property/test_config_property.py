"""Whatever the file contains, the loader soon returns a configuration or a `ConfigError`."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.config import parse as parsing
from collector.config.nodes import MappingNode, Node, ScalarNode, SequenceNode
from collector.config.parse import MAX_BYTES, MAX_DEPTH, MAX_NODES, parse
from collector.model.diagnostics import errors
from collector.model.errors import ConfigError
from collector.pipeline.compile import Plan, prepare
from collector.triggers.registry import TRIGGERS

SHIPPED = Path(__file__).parents[2] / "config" / "collector.yaml"
MEMORY_LIMIT = 64 << 20

pieces = st.sampled_from(
    [
        *(
            b"version: 1\n",
            b"pipelines:\n",
            b"  crash:\n",
            b"    steps:\n",
            b"      - id: a\n",
            b"        collector: dmesg\n",
        ),
        *(b"- ", b": ", b"? ", b"{", b"}", b"[", b"]", b",", b"'", b'"', b"|\n", b">-\n", b"#", b"@", b"`"),
        *(b"&a ", b"*a", b"<<: *a\n", b"!!python/name:os.system ", b"!x ", b"%YAML 1.1\n", b"---\n", b"...\n"),
        *(
            b"\\x00",
            b'"\\ud800"',
            b'"\\ud83d\\ude00"',
            b'"\\UFFFFFFFF"',
            b"\xff",
            b"\xef\xbb\xbf",
            b"\x00",
            b"\xc2\x85",
        ),
        *(b"\t", b"\n", b" ", b"  ", b"~", b"null", b"no", b"010", b"0x10", b"1:30", b"1e400", b".inf", b"9" * 5000),
        *(b"64MiB", b"5%", b"14d", b"id", b"with"),
    ]
)


def outcome(path: Path) -> Plan[object] | ConfigError:
    try:
        return prepare(str(path), TRIGGERS)
    except ConfigError as exc:
        return exc


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "collector.yaml"


bounded = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@bounded
@given(data=st.one_of(st.binary(max_size=400), st.lists(pieces, max_size=60).map(b"".join)))
def test_config_any_bytes_give_a_plan_or_a_config_error(file: Path, data: bytes) -> None:
    """No byte string makes the loader raise anything else."""
    file.write_bytes(data)
    outcome(file)


@bounded
@given(changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 12), st.lists(pieces, max_size=3)), max_size=4))
def test_config_shipped_file_with_damage_gives_a_plan_or_a_config_error(
    file: Path, changes: list[tuple[int, int, list[bytes]]]
) -> None:
    """Damage to a real file reaches every layer, down to the collectors' own types."""
    data = SHIPPED.read_bytes()
    for start, length, new in changes:
        data = data[:start] + b"".join(new) + data[start + length :]
    file.write_bytes(data)
    outcome(file)


def count(node: Node) -> int:
    match node:
        case ScalarNode():
            return 1
        case SequenceNode():
            return 1 + sum(map(count, node.items))
        case MappingNode():
            return 1 + sum(1 + count(entry.node) for entry in node.entries.values())


def depth(node: Node) -> int:
    match node:
        case ScalarNode():
            return 0
        case SequenceNode():
            return 1 + max(map(depth, node.items), default=0)
        case MappingNode():
            return 1 + max((depth(entry.node) for entry in node.entries.values()), default=0)


@bounded
@given(data=st.lists(pieces, max_size=200).map(b"".join))
def test_config_parsed_tree_is_bounded(data: bytes) -> None:
    """Aliases expanded, no more values and no deeper nesting than is allowed: later passes need no bounds."""
    tree, diagnostics = parse(data, "f")
    assert tree is not None or diagnostics
    if tree is not None:
        assert count(tree) <= MAX_NODES + 1
        assert depth(tree) <= MAX_DEPTH + 1


BOMBS = {
    "aliases": b"version: 1\na: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(ord("b"), ord("j"))),
    "alias keys": b"a: &a {k: v, l: w}\n" + b"".join(b"b%d: [*a, *a]\n" % i for i in range(3000)),
    "nesting": b"[" * MAX_BYTES,
    "nested mappings": b"{" * MAX_BYTES,
    "block nesting": b"\n".join(b" " * i + b"a:" for i in range(700)),
    "indicators": b"- " * (MAX_BYTES // 2),
    "questions": b"? " * (MAX_BYTES // 2),
    "one long key": b"k" * MAX_BYTES,
    "one long line": b"x " * (MAX_BYTES // 8),
    "blank lines": b"\n" * (MAX_BYTES // 4),
    "many keys": b"".join(b"k%d: 1\n" % i for i in range(MAX_BYTES // 10)),
    "many items": b"[" + b"a," * (MAX_BYTES // 2 - 1),
    "escapes": b'"' + b"\\x41" * (MAX_BYTES // 4 - 1) + b'"',
    "folds": b"a: >\n" + b" x\n" * (MAX_BYTES // 3 - 3),
    "many mistakes": b"version: 1\npipelines:\n  crash:\n    steps:\n"
    + b"".join(b"    - {id: s%d, collector: dmesg, sinc: 1}\n" % i for i in range(1400)),
    "too large": b"#" * (MAX_BYTES + 1),
    "far too large": b"#" * (64 << 20),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.timeout(20)
def test_config_bomb_is_bounded(name: str, file: Path) -> None:
    """The worst files, billion laughs included, stay within the memory and the time of a bounded file."""
    file.write_bytes(BOMBS[name])
    tracemalloc.start()
    try:
        result = outcome(file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(result, ConfigError)
    assert peak < MEMORY_LIMIT


@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40))
@settings(deadline=None)
def test_config_text_in_quotes_is_read_literally(text: str) -> None:
    """What an operator quotes, including ``no`` and ``010``, is read character by character."""
    tree, diagnostics = parse(yaml.safe_dump({"key": text}, default_style='"', allow_unicode=True).encode(), "f")
    assert not errors(diagnostics)
    assert tree is not None
    assert tree.get("key") == ScalarNode(text, False, tree.entries["key"].node.mark)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "word", ["no", "on", "yes", "010", "0x1f", "12:30", "1e3", "1_000", "2001-01-01", "=", ".5", "true"]
)
def test_config_plain_text_is_never_guessed_at(word: str) -> None:
    """YAML 1.1 would read booleans, octal and sexagesimal numbers, and dates; here a word is a word."""
    tree, diagnostics = parse(f"key: {word}\n".encode(), "f")
    assert not diagnostics
    assert isinstance(tree, MappingNode)
    node = tree.get("key")
    assert isinstance(node, ScalarNode)
    assert node.text == word


def test_config_limits_are_what_the_bombs_meet() -> None:
    """The limits that the bombs test exist."""
    assert parsing.MAX_BYTES <= 1 << 20
    assert parsing.MAX_NODES <= 100_000
    assert parsing.MAX_DEPTH <= 64
