"""
Generate `systemd/collector.catalog`, for ``journalctl -x``, from the table of events in `docs/operations.md`.

    python docs/message_catalog.py
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from collector.daemon.log_kinds import KINDS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "operations.md"
CATALOG = ROOT / "systemd" / "collector.catalog"

ROW = re.compile(
    r"^\| (?P<events>`[a-z]+\.[a-z]+`[^|]*) \| [a-z, ]+ \| (?P<means>[^|]*)\|(?P<do>[^|]*)\|$", re.MULTILINE
)
LINK = re.compile(r"\[([^]]+)\]\([^)]+\)")
HEAD = "# Made by docs/message_catalog.py from docs/operations.md. Do not edit. Source: systemd.io/CATALOG\n"


def catalog() -> str:
    """Return the catalog's text. Events of which the page says nothing but the name have no entry."""
    return HEAD + "".join(f"\n{entry}" for entry in _entries(PAGE.read_text(encoding="utf-8")))


def _entries(page: str) -> Iterator[str]:
    for row in ROW.finditer(page):
        means, do = _plain(LINK.sub(r"\1", row["means"])), _plain(LINK.sub(r"see “\1”", row["do"]))
        for event in re.findall("`([^`]+)`", row["events"]):
            if means:
                todo = f"\n\nWhat to do: {do}." if do else ""
                body = f"{means}.{todo}\n\nSee docs/operations.md, “What the log says”."
                yield f"-- {KINDS[event].message_id}\nSubject: {event}\nDefined-By: collector\n\n{_wrapped(body)}\n"


def _plain(markdown: str) -> str:
    text = markdown.strip()
    return (text if text.startswith("`") else text[:1].upper() + text[1:]).replace("`", "")


def _wrapped(text: str) -> str:
    return "\n\n".join(textwrap.fill(part, 80) for part in text.split("\n\n"))


if __name__ == "__main__":
    CATALOG.write_text(catalog(), encoding="utf-8")
