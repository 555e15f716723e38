"""Horizontal bar charts as small SVG files."""

from __future__ import annotations

from html import escape
from pathlib import Path

ROW, LEFT, WIDTH, RIGHT = 24, 230, 420, 110
OURS = ("engine", "collector")
STYLE = "font: 13px sans-serif; fill: #222"


def bars(path: Path, title: str, values: dict[str, float], unit: str) -> None:
    """Write *values* as labelled bars; the engine's are highlighted."""
    top = max(values.values(), default=0) or 1
    height = ROW * (len(values) + 2)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + RIGHT}" height="{height}" style="{STYLE}">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="20" font-weight="bold">{escape(title)} ({escape(unit)})</text>',
    ]
    for number, (name, value) in enumerate(values.items(), start=1):
        y = ROW * number + 10
        colour = "#1f77b4" if name.startswith(OURS) else "#bbbbbb"
        width = max(1.0, WIDTH * value / top)
        lines += [
            f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{ROW - 6}" fill="{colour}"/>',
            f'<text x="{LEFT + width + 6:.1f}" y="{y + 14}">{value:,.6g}</text>',
        ]
    path.write_text("\n".join([*lines, "</svg>", ""]))
