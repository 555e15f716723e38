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
from collector.config.dump import written
from collector.config.merge import merge, repeated_ids
from collector.config.nodes import MappingEntry, MappingNode, Path, ScalarNode, text_of, walk
from collector.config.parse import MAX_BYTES, parse
from collector.config.spec import Config
from collector.host.files import OpenFd, pieces
from collector.model.diagnostics import Diagnostic, Mark, Severity, errors
from collector.model.errors import ConfigError
from collector.model.units import quote

SYSTEM_PATH = "/etc/collector/collector.yaml"
DROP_INS = "conf.d"
ENDINGS = (".yaml", ".yml")
MEANT = (*ENDINGS, ".conf", ".json")
"""Endings, in lower case, of files that somebody expects to be read; backups and the like have others."""
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
    diagnostics = _not_read(path)
    trees: list[MappingNode] = []
    files = (path or PACKAGED, *drop_ins(path or SYSTEM_PATH))
    for file in files:
        tree, found = _read(file)
        diagnostics += found
        if tree is not None:
            diagnostics += repeated_ids(tree)
            trees.append(tree)
    if len(trees) < len(files):
        raise ConfigError(tuple(diagnostics))
    main, *others = trees
    main = _with_version(main, diagnostics)
    for other in others:
        main = merge(main, _with_version(other, diagnostics, due=False))
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
        diagnostics.append(
            Diagnostic(mark=mark, message="`version` is missing", hint=f"begin with `version: {VERSION}`")
        )
        return MappingNode({"version": MappingEntry(mark, ScalarNode(VERSION, True, mark)), **tree.entries}, tree.mark)
    return tree


def drop_ins(path: str) -> tuple[str, ...]:
    """Return the drop-ins that belong to *path*, in lexical order."""
    return tuple(name for name in _beside(path) if name.endswith(ENDINGS))


def _beside(path: str) -> list[str]:
    """Return what is in the directory of drop-ins, without hidden files."""
    directory = os.path.join(os.path.dirname(path), DROP_INS)
    try:
        names = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as exc:
        raise ConfigError((_cannot_read(directory, exc),)) from exc
    return [os.path.join(directory, name) for name in names if not name.startswith(".")]


def _not_read(path: str | None) -> list[Diagnostic]:
    """Warn of files that are not read although their names look as if they should be."""
    found = [name for name in _beside(path or SYSTEM_PATH) if name.lower().endswith(MEANT)]
    said = [(name, "call it NAME.yaml") for name in found if not name.endswith(ENDINGS)]
    namesake = SYSTEM_PATH.removesuffix(".yaml") + ".yml"
    if path in {None, SYSTEM_PATH} and os.path.exists(namesake):
        said.append((namesake, f"call it {SYSTEM_PATH}"))
    return [
        Diagnostic(mark=Mark(name), message="this file is not read", hint=hint, severity=Severity.WARNING)
        for name, hint in said
    ]


def _read(file: str) -> tuple[MappingNode | None, list[Diagnostic]]:
    """Parse *file*, if it is a regular file: reading another kind might hang."""
    if file == PACKAGED:
        return parse(pkgutil.get_data("collector.config", "default.yaml") or b"", file)
    try:
        with OpenFd(os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)) as fd:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")  # noqa: TRY301 - reported like the kernel's own errors
            data = b"".join(pieces(fd, limit=MAX_BYTES + 1))
    except (OSError, ValueError) as exc:
        return None, [_cannot_read(file, exc)]
    return parse(data, file)


def _cannot_read(path: str, exc: OSError | ValueError) -> Diagnostic:
    reason = exc.strerror if isinstance(exc, OSError) else str(exc)
    return Diagnostic(mark=Mark(path), message=f"cannot be read: {reason}", hint="name a readable file")
