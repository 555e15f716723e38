"""
From bytes to nodes: YAML without its traps.

PyYAML only cuts the text into events; what they mean is decided here. Text stays text until a type
asks for something else (so ``no``, ``010`` and ``12:30`` are never guessed at), keys are unique,
tags and merge keys are refused, and everything is bounded: the size, the depth, and the number of
values after aliases are expanded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from collector.config.nodes import Entry, Mapping, Node, Scalar, Sequence
from collector.config.yaml_errors import explain
from collector.model.diagnostics import Diagnostic, Mark
from collector.model.units import quote

MAX_BYTES = 256 << 10
MAX_DEPTH = 24
MAX_NODES = 10_000


class Unreadable(Exception):  # noqa: N818 - carries one problem out of the recursion
    """The text cannot be read any further."""

    def __init__(self, problem: Diagnostic) -> None:
        super().__init__(str(problem))
        self.problem = problem


def parse(data: bytes, file: str) -> tuple[Mapping | None, list[Diagnostic]]:
    """
    Return the top mapping of *data*, ``None`` if there is none, and what is wrong with it.

    Args:
        data: The whole file.
        file: Its name, for the places.
    """
    if len(data) > MAX_BYTES:
        return None, [Diagnostic(mark=Mark(file), message=f"the file is larger than {MAX_BYTES >> 10} KiB")]
    composer: _Composer | None = None
    try:
        composer = _Composer(_decode(data, file), file)
        return composer.document(), composer.problems
    except Unreadable as exc:
        return None, [*(composer.problems if composer else ()), exc.problem]


def _decode(data: bytes, file: str) -> str:
    """Return the text; a file that is not UTF-8, or holds control characters, is refused at the place."""
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as exc:
        mark = _mark_at(data[: exc.start].decode("utf-8", "replace"), file)
        raise Unreadable(
            Diagnostic(mark=mark, message=f"byte 0x{data[exc.start]:02x} is not UTF-8", hint="save the file as UTF-8")
        ) from exc
    bad = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if bad:
        mark = _mark_at(text[: bad.start()], file)
        raise Unreadable(Diagnostic(mark=mark, message=f"control character {bad.group()!r}", hint="remove it"))
    return text


def _mark_at(before: str, file: str) -> Mark:
    """Return the place that follows the text *before*."""
    return Mark(file, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)


class _Composer:
    """Builds nodes from events, and counts."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.problems: list[Diagnostic] = []
        self._events = self._read(text)
        self._anchors: dict[str, tuple[Node, int] | None] = {}
        self._count = 0

    def document(self) -> Mapping | None:
        """Return the top mapping of the only document."""
        next(self._events)  # StreamStart
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return Mapping({}, Mark(self.file, 1, 1))
        top = self._node(next(self._events), 0)
        next(self._events)  # DocumentEnd
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            self._report(event, "a second document begins here", hint="one file holds one document; remove the ---")
        if isinstance(top, Mapping):
            return top
        if isinstance(top, Scalar) and top.plain and not top.text:
            return Mapping({}, top.mark)
        self.problems.append(
            Diagnostic(mark=top.mark, message="the file does not hold keys and values", hint="begin with `version: 1`")
        )
        return None

    def _read(self, text: str) -> Iterator[yaml.Event]:
        """Yield the events; what PyYAML raises becomes a problem with a place."""
        loader = yaml.SafeLoader(text)
        try:
            while loader.check_event():
                yield loader.get_event()  # type: ignore[no-untyped-call]
        except yaml.MarkedYAMLError as exc:
            sentence, hint, place = explain(exc)
            raise Unreadable(Diagnostic(mark=Mark(self.file, *(place or ())), message=sentence, hint=hint)) from exc
        except (ValueError, OverflowError) as exc:  # chr() of an escape such as "\UFFFFFFFF"
            raise Unreadable(
                Diagnostic(
                    mark=Mark(self.file, loader.line + 1, loader.column + 1), message="an escape names no character"
                )
            ) from exc
        finally:
            loader.dispose()

    def _node(self, event: yaml.Event, depth: int) -> Node:
        self._count += 1
        if depth > MAX_DEPTH:
            raise Unreadable(Diagnostic(mark=self._start(event), message=f"nested deeper than {MAX_DEPTH} levels"))
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, str(event.anchor))
        tag, anchor = getattr(event, "tag", None), getattr(event, "anchor", None)
        if tag is not None:
            self._report(event, f"the tag {quote(tag)} is not supported", hint="remove the tag")
        before = self._count
        if anchor:
            self._anchors[anchor] = None
        node = self._value(event, depth)
        if anchor:
            self._anchors[anchor] = (node, self._count - before + 1)
        self._bound(event)
        return node

    def _value(self, event: yaml.Event, depth: int) -> Node:
        mark = self._start(event)
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(self._text(event), event.style is None, mark)
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(item := next(self._events), yaml.SequenceEndEvent):
                items.append(self._node(item, depth + 1))
            return Sequence(tuple(items), mark)
        return self._mapping(mark, depth)

    def _mapping(self, mark: Mark, depth: int) -> Mapping:
        entries: dict[str, Entry] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            value = self._node(next(self._events), depth + 1)
            if not isinstance(key, Scalar):
                self._report(event, "a key is a list or a mapping", hint="keys are words")
            elif key.text == "<<" and key.plain:
                self._report(event, "merge keys (<<) are not supported", hint="put what is shared under `defaults`")
            elif key.text in entries:
                first = entries[key.text].key_mark
                self._report(event, f"{quote(key.text)} is given twice", hint=f"the first one is on line {first.line}")
            else:
                entries[key.text] = Entry(key.mark, value)
        return Mapping(entries, mark)

    def _alias(self, event: yaml.Event, anchor: str) -> Node:
        if anchor not in self._anchors:
            raise Unreadable(
                Diagnostic(
                    mark=self._start(event),
                    message=f"no anchor is named {quote(anchor)}",
                    hint=f'if text is meant, put it in quotes: "*{anchor}"',
                )
            )
        known = self._anchors[anchor]
        if known is None:
            raise Unreadable(Diagnostic(mark=self._start(event), message=f"{quote(anchor)} contains itself"))
        node, size = known
        self._count += size
        self._bound(event)
        return node

    def _bound(self, event: yaml.Event) -> None:
        if self._count > MAX_NODES:
            raise Unreadable(
                Diagnostic(mark=self._start(event), message=f"more than {MAX_NODES} values, aliases expanded")
            )

    def _text(self, event: yaml.ScalarEvent) -> str:
        """Return the text; escapes may smuggle in what no path may hold, and JSON's pairs of half characters."""
        raw = event.value.encode("utf-16-le", "surrogatepass")
        text = raw.decode("utf-16-le", "replace")
        if "\0" in text or text.encode("utf-16-le") != raw:
            self._report(event, "the text holds a NUL or half a character", hint="remove the escape")
        return text.replace("\0", "")

    def _report(self, event: yaml.Event, message: str, *, hint: str | None = None) -> None:
        self.problems.append(Diagnostic(mark=self._start(event), message=message, hint=hint))

    def _start(self, event: yaml.Event) -> Mark:
        return self._mark(event.start_mark)

    def _mark(self, mark: Any) -> Mark:
        return Mark(self.file, mark.line + 1, mark.column + 1) if mark else Mark(self.file)
