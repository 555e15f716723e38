"""Markdown as man(7) macros: what the reference uses of it, which is headings, paragraphs, lists, tables and code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token

FONTS = {"strong_open": "\\fB", "em_open": "\\fI", "strong_close": "\\fR", "em_close": "\\fR"}


def from_markdown(text: str) -> str:
    """Return *text* as lines of roff, each ended by a newline."""
    return "".join(_blocks(MarkdownIt("commonmark").enable("table").parse(text)))


def escaped(text: str) -> str:
    """Return *text* with nothing that roff would take for its own; a hyphen stays one that can be searched for."""
    shown = text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("^", "\\(ha")
    return re.sub(r"^([.'])", r"\\&\1", shown, flags=re.MULTILINE)


def _blocks(tokens: Sequence[Token]) -> Iterator[str]:
    position, begun = 0, True
    while position < len(tokens):
        token = tokens[position]
        if token.type == "table_open":
            end = next(index for index in range(position, len(tokens)) if tokens[index].type == "table_close")
            yield from _rows(tokens[position:end])
            position = end
        elif token.type == "heading_open":
            yield _heading(tokens[position + 1], int(token.tag[1]))
            position, begun = position + 2, True
        elif token.type == "list_item_open":
            yield ".IP \\(bu 2\n"
            begun = True
        elif token.type == "paragraph_open":
            yield "" if begun else ".PP\n"
            begun = False
        elif token.type == "inline":
            yield f"{_inline(token)}\n"
        elif token.type == "fence":
            yield "" if begun else ".PP\n"
            yield f".RS 4\n.EX\n{escaped(token.content)}.EE\n.RE\n"
            begun = False
        position += 1


def _heading(inline: Token, level: int) -> str:
    text = _inline(inline)
    return f'.SH "{text.upper()}"\n' if level == 2 else f'.SS "{text}"\n'


def _rows(tokens: Sequence[Token]) -> Iterator[str]:
    """Yield a tagged paragraph for each row: the first cell as tag, the last as text, those between in brackets."""
    names: list[str] = []
    cells: list[str] = []
    for token in tokens:
        if token.type == "tr_open":
            cells = []
        elif token.type == "inline":
            cells.append(_inline(token).replace("\n", " "))
        elif token.type == "thead_close":
            names = cells
        elif token.type == "tr_close" and names:
            shown = [
                f"default {cell}" if name == "default" and cell else cell
                for name, cell in zip(names, cells, strict=True)
            ]
            between = "; ".join(filter(None, shown[1:-1]))
            kinds = f" ({between})" if between else ""
            yield f".TP\n\\fB{cells[0]}\\fR{kinds}\n{cells[-1] or chr(92) + '&'}\n"


def _inline(token: Token) -> str:
    return "".join(map(_span, token.children or []))


def _span(token: Token) -> str:
    if token.type == "code_inline":
        return f"\\fB{escaped(token.content)}\\fR"
    if token.type == "softbreak":
        return "\n"
    return FONTS.get(token.type) or escaped(token.content)
