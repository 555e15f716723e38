"""What a page must be: valid HTML, with its policy, and with nothing that it loads."""

from __future__ import annotations

from typing import Any

import html5lib

SVG = "{http://www.w3.org/2000/svg}"
LOADS = {"src", "href", "srcset", "action", "data", "poster", "background", "xlink:href", "style"}
HIDDEN = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C, 0xFEFF)}
NAMES = """
html head meta title style body header main section nav footer h1 h2 h3 p a bdi span b strong code time br
dl dt dd div ul ol li table thead tbody tr th td figure figcaption details summary
svg path rect circle text desc
"""
ELEMENTS = set(NAMES.split())


def checked_page(text: str) -> Any:
    """Parse a page as a browser does, with no error allowed; return its tree."""
    tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)
    assert not HIDDEN & set(text)
    ids = []
    for element in tree.iter():
        assert element.tag.removeprefix(SVG) in ELEMENTS, element.tag
        for name, value in element.attrib.items():
            assert not str(name).lower().startswith("on"), (element.tag, name)
            assert name not in LOADS or (element.tag == "a" and value.startswith("#")), (element.tag, name, value)
        ids += [element.attrib["id"]] if "id" in element.attrib else []
    assert len(ids) == len(set(ids))
    assert {link.attrib["href"][1:] for link in tree.iter("a")} <= set(ids)
    assert len(list(tree.iter("style"))) == 1
    assert "url(" not in text
    assert "@import" not in text
    return tree


def words(tree: Any) -> str:
    """Return the text of a page, with single spaces."""
    return " ".join("".join(tree.find("body").itertext()).split())
