"""Secrets in environments and command lines, and what only looks like one: the rows of ``unit/model/redaction.tsv``."""

from __future__ import annotations

import re
from pathlib import Path

SECRET = b"S3CRETpw"
_FILE = Path(__file__).parent / "unit/model/redaction.tsv"
_ARGUMENT = re.compile(rb"<((?:[^<>]|<(?=[a-z/])[^<>]*>)*)>(?= <|\Z)", re.DOTALL)  # it may hold markup itself


def rows(kind: str) -> list[list[bytes]]:
    """Return the further columns of the rows of one *kind*, with their line breaks."""
    lines = (line.split(b"\t") for line in _FILE.read_bytes().splitlines())
    return [[column.replace(rb"\n", b"\n") for column in rest] for name, *rest in lines if name == kind.encode()]


def arguments_of(row: bytes) -> list[bytes]:
    """Return the arguments that are written in angle brackets."""
    return _ARGUMENT.findall(row)
