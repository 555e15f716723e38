"""
From bytes to nodes: YAML without its traps.

PyYAML splits the text into events; what they mean is decided here. Text stays text until a type
asks for something else (so ``no``, ``010`` and ``12:30`` are never guessed at), keys are unique,
tags and merge keys are refused, and everything is bounded: the size, the depth, and the number of
values after aliases are expanded. PyYAML's own composer knows none of these bounds, loses where an
alias stands, and stops at the first mistake.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

from collector.config.lookalikes import find_lookalike
from collector.config.nodes import MappingEntry, MappingNode, Node, ScalarNode, SequenceNode
from collector.config.slips import slips_of_lines
from collector.config.yaml_errors import TEMPLATE, TEMPLATE_HINT, explain
from collector.model.diagnostics import Diagnostic, Mark, Severity, errors
from collector.model.units import quote

MAX_BYTES = 256 << 10
MAX_DEPTH = 24
MAX_NODES = 10_000
LINE_BREAKS = re.compile("[\x85\u2028\u2029]")
"""Line breaks to YAML 1.1, but to no editor: what follows one would be another line, or out of a comment."""


class Unreadable(Exception):  # noqa: N818 - carries one diagnostic out of the recursion
    """The text cannot be read any further."""

    def __init__(self, mark: Mark, message: str, hint: str | None = None) -> None:
        self.diagnostic = Diagnostic(mark=mark, message=message, hint=hint)
        super().__init__(str(self.diagnostic))


def parse(data: bytes, file: str) -> tuple[MappingNode | None, list[Diagnostic]]:
    """Return the top mapping of the file's *data*, ``None`` if there is none, and what is wrong with it."""
    if len(data) > MAX_BYTES:
        return None, [Diagnostic(mark=Mark(file), message=f"the file is larger than {MAX_BYTES >> 10} KiB")]
    diagnostics: list[Diagnostic] = []
    try:
        return _Composer(_decode(data, file), file, diagnostics).document(), diagnostics
    except Unreadable as exc:
        return None, [*errors(diagnostics), exc.diagnostic]


def _decode(data: bytes, file: str) -> str:
    """Return the text; the first byte that is not UTF-8, or a control character, is refused with its place."""
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as exc:
        mark = _mark_at(data[: exc.start].decode("utf-8", "replace"), file)
        raise Unreadable(mark, f"byte 0x{data[exc.start]:02x} is not UTF-8", "save the file as UTF-8") from exc
    bad = yaml.reader.Reader.NON_PRINTABLE.search(text) or LINE_BREAKS.search(text)
    if bad:
        mark = _mark_at(text[: bad.start()], file)
        raise Unreadable(mark, f"control character {bad.group()!r}", "remove it")
    return text


def _mark_at(before: str, file: str) -> Mark:
    """Return the place after the text *before*."""
    return Mark(file, before.count("\n") + 1, _last_line(before) + 1)


def _last_line(text: str) -> int:
    """Return the length of the last line of *text*."""
    return len(text) - (text.rfind("\n") + 1)


class _Composer:
    """Builds nodes from events, and counts them."""

    def __init__(self, text: str, file: str, diagnostics: list[Diagnostic]) -> None:
        self.file = file
        self.diagnostics = diagnostics
        self._source = text
        self._events = self._read(text)
        self._anchors: dict[str, tuple[Node, int] | None] = {}
        self._count = 0

    def document(self) -> MappingNode:
        """Return the top mapping of the only document."""
        next(self._events)  # StreamStart
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return MappingNode({}, Mark(self.file, 1, 1))
        top = self._node(next(self._events), 0)
        next(self._events)  # DocumentEnd
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            self._report(event, "a second document begins here", "one file holds one document; remove the ---")
        if isinstance(top, MappingNode):
            return top
        if isinstance(top, ScalarNode) and top.plain and not top.text:
            return MappingNode({}, top.mark)
        raise Unreadable(top.mark, "the file is not a mapping", "begin with `version: 1`")

    def _read(self, text: str) -> Iterator[yaml.Event]:
        """Yield the events; what PyYAML raises becomes a diagnostic with a place."""
        loader = yaml.SafeLoader(text)
        try:
            while loader.check_event():
                yield loader.get_event()  # type: ignore[no-untyped-call]
        except yaml.MarkedYAMLError as exc:
            sentence, hint, place = explain(exc, text)
            raise Unreadable(Mark(self.file, *(place or ())), sentence, hint) from exc
        except (ValueError, OverflowError) as exc:  # chr() of an escape such as "\UFFFFFFFF"
            raise Unreadable(Mark(self.file, loader.line + 1, loader.column + 1), "invalid character escape") from exc
        finally:
            loader.dispose()

    def _node(self, event: yaml.Event, depth: int) -> Node:
        self._count += 1
        if depth > MAX_DEPTH:
            raise Unreadable(self._mark(event), f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, str(event.anchor))
        tag, anchor = getattr(event, "tag", None), getattr(event, "anchor", None)
        if tag is not None:
            self._report(event, f"the tag {quote(tag)} is not supported", "remove it, or put the text in quotes")
        before = self._count
        if anchor:
            self._anchors[anchor] = None
        node = self._value(event, depth)
        if anchor:
            self._anchors[anchor] = (node, self._count - before + 1)
        self._bound(event)
        return node

    def _value(self, event: yaml.Event, depth: int) -> Node:
        mark = self._mark(event)
        if isinstance(event, yaml.ScalarEvent):
            return ScalarNode(self._text(event), event.style is None, mark)
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(item := next(self._events), yaml.SequenceEndEvent):
                items.append(self._node(item, depth + 1))
            return SequenceNode(tuple(items), mark)
        if self._raw(event, 2) == "{{":
            raise Unreadable(mark, TEMPLATE, TEMPLATE_HINT)
        if self._raw(event, 1).startswith("?"):
            self._report(event, "a value that begins with ? needs quotes", 'write it as "?..."')
        return self._mapping(mark, depth)

    def _mapping(self, mark: Mark, depth: int) -> MappingNode:
        entries: dict[str, MappingEntry] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            value = self._node(next(self._events), depth + 1)
            if not isinstance(key, ScalarNode):
                self._report(event, "a key is a list or a mapping", "write keys as plain text")
            elif key.text == "<<" and key.plain:
                self._report(event, "merge keys (<<) are not supported", "put what is shared under `defaults`")
            elif key.text in entries:
                item = "; another item begins with `- `" if key.text == "id" else ""
                first = f"first on line {entries[key.text].key_mark.line}"
                self._report(event, f"{quote(key.text)} appears twice", first + item)
            else:
                entries[key.text] = MappingEntry(key.mark, value)
        return MappingNode(entries, mark)

    def _alias(self, event: yaml.Event, anchor: str) -> Node:
        if anchor not in self._anchors:
            hint = f'if text is meant, put it in quotes: "*{anchor}"'
            raise Unreadable(self._mark(event), f"no anchor is named {quote(anchor)}", hint)
        known = self._anchors[anchor]
        if known is None:
            raise Unreadable(self._mark(event), f"{quote(anchor)} contains itself")
        node, size = known
        self._count += size
        self._bound(event)
        return node

    def _bound(self, event: yaml.Event) -> None:
        if self._count > MAX_NODES:
            raise Unreadable(self._mark(event), f"more than {MAX_NODES} values, aliases expanded")

    def _text(self, event: yaml.ScalarEvent) -> str:
        """Return the text; escapes can contain NULs, which no path may, and JSON's pairs of surrogates."""
        self._check(event, self._raw(event))
        raw = event.value.encode("utf-16-le", "surrogatepass")
        text = raw.decode("utf-16-le", "replace")
        if "\0" in text or text.encode("utf-16-le") != raw:
            self._report(event, "the text contains a NUL or half a character", "remove the escape")
        return text.replace("\0", "")

    def _raw(self, event: yaml.Event, length: int = 0) -> str:
        """Return what stands in the file for *event*, at least *length* characters."""
        start, end = event.start_mark, event.end_mark
        if start is None or end is None:
            return ""
        return self._source[start.index : max(end.index, start.index + length)]

    def _check(self, event: yaml.ScalarEvent, raw: str) -> None:
        """Report what of a text as it stands in the file its author probably did not mean."""
        is_plain = event.style is None
        if (char := find_lookalike(raw)) is not None:
            severity = Severity.ERROR if is_plain and char.at_edge else Severity.WARNING
            before = raw[: char.offset]
            self._report(event, char.message, char.hint, severity, at=(before.count("\n"), _last_line(before)))
        if is_plain and raw[-1:] in ('"', "'") and raw[-1] not in raw[:-1]:
            self._report(event, f"a {raw[-1]} ends this text and none begins it", "remove it", Severity.WARNING)
        if is_plain and "\n" in raw:
            for line, column, slip in slips_of_lines(raw):
                message = slip.message if slip else "the text of the line above goes on here"
                hint = slip.hint if slip else "put it in quotes if that is meant"
                self._report(event, message, hint, Severity.ERROR if slip else Severity.WARNING, at=(line, column))

    def _report(
        self, event: yaml.Event, message: str, hint: str, severity: Severity = Severity.ERROR, *,
        at: tuple[int, int] = (0, 0),
    ) -> None:  # fmt: skip
        """Note what is wrong with *event*, or *at* lines and columns after its beginning."""
        start = self._mark(event)
        mark = Mark(start.file, start.line + at[0], at[1] + 1 if at[0] else start.column + at[1])
        self.diagnostics.append(Diagnostic(mark=mark, message=message, hint=hint, severity=severity))

    def _mark(self, event: yaml.Event) -> Mark:
        at = event.start_mark
        return Mark(self.file, at.line + 1, at.column + 1) if at else Mark(self.file)
