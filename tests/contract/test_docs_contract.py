"""What the hand-written pages name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from collector.pipeline.compile import prepare
from collector.triggers.registry import TRIGGERS

ROOT = Path(__file__).parents[2]
PAGES = [str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))]
TESTS = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))


@pytest.mark.parametrize("page", PAGES)
def test_docs_links_lead_to_files_and_headings(page: str) -> None:
    """A relative link names a file, and a fragment one of the headings of the page that it leads to."""
    for target in re.findall(r"\]\(([^):]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        path, _, fragment = target.partition("#")
        other = (ROOT / page).parent / path if path else ROOT / page
        assert other.exists(), target
        assert not fragment or fragment in headings(other), target


def headings(page: Path) -> set[str]:
    """Return the fragments that lead to the headings of *page*."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [page for page in PAGES if "writing-a-" not in page])
def test_docs_name_modules_that_exist(page: str) -> None:
    """A module that was renamed is renamed in the documentation, too."""
    for module in re.findall(r"`((?:\w+/)+\w+\.py)`", (ROOT / page).read_text(encoding="utf-8")):
        assert (ROOT / "collector" / module).exists() or (ROOT / module).exists(), module


def test_docs_name_security_tests_that_exist() -> None:
    """The table says which test replays which attack."""
    _, _, table = (ROOT / "docs/security.md").read_text(encoding="utf-8").partition("## Which test")
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")][1:]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named
    assert {name for name in named if name not in TESTS} == set()


def test_docs_of_handing_over_show_a_configuration_that_is_valid(tmp_path: Path) -> None:
    """It is copied as it stands; its unit is the shipped example, and ends before the daemon gives up."""
    text = (ROOT / "docs/handover.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    shipped = (ROOT / "config/collector.yaml").read_text(encoding="utf-8")
    (tmp_path / "c.yaml").write_text(f"{shipped}\n{block}", encoding="utf-8")
    settings = prepare(str(tmp_path / "c.yaml"), TRIGGERS).loaded.config.on_archived
    unit = settings.argv[-1].replace("{incident}", "")
    example = (ROOT / "systemd/examples" / unit).read_text(encoding="utf-8")
    (minutes,) = re.findall(r"^TimeoutStartSec=(\d+)min$", example, re.MULTILINE)
    assert int(minutes) * 60 < settings.timeout_s
