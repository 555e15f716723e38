"""What the hand-written pages name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{name}.md" for name in ("architecture", "operations", "security"))]
TESTS = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))


@pytest.mark.parametrize("page", PAGES)
def test_docs_links_lead_to_files_and_headings(page: str) -> None:
    """A relative link names a file beside the page, and a fragment one of the page's own headings."""
    text = (ROOT / page).read_text()
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    headings = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    for target in re.findall(r"\]\(([^):]+)\)", text):
        path, _, fragment = target.partition("#")
        assert ((ROOT / page).parent / path).exists(), target
        assert not fragment or fragment in headings, target


@pytest.mark.parametrize("page", PAGES)
def test_docs_name_modules_that_exist(page: str) -> None:
    """A module that was renamed is renamed in the documentation, too."""
    for module in re.findall(r"`((?:\w+/)+\w+\.py)`", (ROOT / page).read_text()):
        assert (ROOT / "collector" / module).exists(), module


def test_docs_name_security_tests_that_exist() -> None:
    """The table says which test replays which attack."""
    _, _, table = (ROOT / "docs/security.md").read_text().partition("## Which test")
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")][1:]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named
    assert {name for name in named if name not in TESTS} == set()
