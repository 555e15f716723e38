"""From files to a `Config`: find them, read them, merge the drop-ins, give them types."""

from __future__ import annotations

import errno
import os
import pkgutil
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
import xxhash

from collector.config.convert import Converter
from collector.config.drop_ins import DROP_INS, SYSTEM_PATH, cannot_read, drop_ins, main_file, not_read
from collector.config.dump import written
from collector.config.merge import merge, repeated_ids
from collector.config.nodes import MappingEntry, MappingNode, Path, ScalarNode, text_of, walk
from collector.config.parse import MAX_BYTES, parse
from collector.config.spec import Config
from collector.config.unknown_ids import replacing_nothing, without_unknown
from collector.host.files import OpenFd, pieces
from collector.model.diagnostics import Diagnostic, Mark, errors
from collector.model.errors import ConfigError
from collector.model.units import quote

PACKAGED = "<packaged default>"
VERSION = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """
    A configuration and where it came from.

    Args:
        config: The values.
        tree: The same before it had types, drop-ins merged.
        origins: The place of each value of *tree*.
        hash: Hex digest of all values; the same for files that differ only in comments and layout.
        source: The main file as shown to people.
        files: All files that were read, the main one first.
        diagnostics: What is wrong so far; no errors after `load`.
    """

    config: Config
    tree: MappingNode
    origins: dict[Path, Mark]
    hash: str
    source: str
    files: tuple[str, ...]
    diagnostics: tuple[Diagnostic, ...]


def find(explicit: str | None) -> str | None:
    """Return the path to load: *explicit*, else the system's file if it exists, else ``None`` for the packaged one."""
    if explicit is not None:
        return explicit
    return SYSTEM_PATH if os.path.exists(SYSTEM_PATH) else None


def load(path: str | None) -> Loaded:
    """
    Return the configuration at *path*, with its drop-ins.

    Args:
        path: The main file; ``None`` for the packaged default. Drop-ins are ``conf.d/*.yaml`` and ``*.yml``
            beside it, and those of the system's file beside the packaged one.

    Raises:
        ConfigError: With all that is wrong in all the files.
    """
    loaded = examine(path)
    if errors(loaded.diagnostics):
        raise ConfigError(in_order(loaded.diagnostics, loaded.files))
    return loaded


def in_order(diagnostics: Iterable[Diagnostic], files: Sequence[str]) -> tuple[Diagnostic, ...]:
    """Return *diagnostics* by file and line, each once."""

    def place(diagnostic: Diagnostic) -> tuple[int, int, int]:
        mark = diagnostic.mark
        return (files.index(mark.file) if mark.file in files else len(files), mark.line, mark.column)

    return tuple(sorted(dict.fromkeys(diagnostics), key=place))


def load_lenient(path: str | None) -> Config:
    """Return what can be read of the configuration at *path*, defaults for the rest: to find a running daemon."""
    try:
        return examine(path).config
    except ConfigError:
        return Config(version=1)


def examine(path: str | None) -> Loaded:
    """
    Return what can be read of the configuration at *path*, with its diagnostics.

    Raises:
        ConfigError: If nothing can be read.
    """
    diagnostics = not_read(path)
    trees: list[MappingNode] = []
    files = (path or PACKAGED, *drop_ins(path or SYSTEM_PATH))
    for file in files:
        tree, found = read_tree(file)
        diagnostics += found
        if tree is not None:
            diagnostics += repeated_ids(tree)
            trees.append(tree)
    if len(trees) < len(files):
        raise ConfigError(tuple(diagnostics))
    main, *others = trees
    main = _with_version(main, diagnostics)
    for other in others:
        diagnostics += replacing_nothing(main, other)
        main = merge(main, _with_version(other, diagnostics, due=False), notes=diagnostics)
    main, unknown = without_unknown(main, files[0])
    diagnostics += unknown
    converter = Converter()
    config = converter.read(main, Config, "the file")
    return Loaded(
        config=config,
        tree=main,
        origins={path: node.mark for path, node in walk(main)},
        hash=digest(config),
        source=files[0],
        files=files,
        diagnostics=(*diagnostics, *converter.diagnostics),
    )


def digest(config: Config) -> str:
    """Return a hex digest of all values of *config*, defaults included."""
    data = msgspec.json.encode(written(config, Config), order="sorted")
    return xxhash.xxh3_128_hexdigest(data)  # hashlib would cost the daemon 3.7 MiB (libcrypto)


def _with_version(tree: MappingNode, diagnostics: list[Diagnostic], *, due: bool = True) -> MappingNode:
    """Check the version before everything else: another version cannot be judged."""
    node = tree.get("version")
    if node is not None and text_of(node) != VERSION:
        diagnostic = Diagnostic(
            mark=node.mark,
            message=f"this program reads version {VERSION}, not {quote(text_of(node) or '')}",
            hint=f"write `version: {VERSION}`",
        )
        raise ConfigError((*diagnostics, diagnostic))
    if node is None and due:
        mark = Mark(tree.mark.file, 1, 1)
        diagnostics.append(Diagnostic(mark=mark, message="`version` is missing", hint=_drop_in_hint(mark.file)))
        return MappingNode({"version": MappingEntry(mark, ScalarNode(VERSION, True, mark)), **tree.entries}, tree.mark)
    return tree


def _drop_in_hint(file: str) -> str:
    """Return what to do about a main file without a version: it may be a drop-in, which is none."""
    if os.path.basename(os.path.dirname(os.path.abspath(file))) == DROP_INS:
        return f"this is a drop-in: name the main file, which reads it, such as {main_file(os.path.dirname(file))}"
    return f"begin with `version: {VERSION}`"


def read_tree(file: str) -> tuple[MappingNode | None, list[Diagnostic]]:
    """Parse *file*, if it is a regular file: reading another kind might hang."""
    if file == PACKAGED:
        return parse(pkgutil.get_data("collector.config", "default.yaml") or b"", file)
    if os.path.isdir(file):
        hint = f"name the file, such as {main_file(file)}: {DROP_INS} beside it is read with it"
        return None, [Diagnostic(mark=Mark(file), message="cannot be read: this is a directory", hint=hint)]
    try:
        with OpenFd(os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)) as fd:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")  # noqa: TRY301 - reported like the kernel's own errors
            data = b"".join(pieces(fd, limit=MAX_BYTES + 1))
    except (OSError, ValueError) as exc:
        return None, [cannot_read(file, exc)]
    return parse(data, file)
