"""
The text that Prometheus reads.

Source: https://prometheus.io/docs/instrumenting/exposition_formats, "Text-based format", version 0.0.4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from collector.daemon.metric_table import METRICS, PREFIX, Metric

Rows = Mapping[tuple[str, ...], float | tuple[float, float]]
"""Values by those of the labels; of a summary, sum and count."""


def exposition(values: Mapping[str, Rows]) -> str:
    """
    Return the text of *values*, which are the rows of each metric by its name, in the order of the table.

    Raises:
        KeyError: If a metric of the table has no rows; no rows at all are an empty mapping.
    """
    return "".join(f"{line}\n" for metric in METRICS for line in _lines(metric, values[metric.name]))


def _lines(metric: Metric, rows: Rows) -> Iterator[str]:
    name = PREFIX + metric.name
    yield f"# HELP {name} {_escaped(metric.help)}"
    yield f"# TYPE {name} {metric.kind}"
    for labels, value in rows.items():
        shown = _shown(zip(metric.labels, labels, strict=True))
        if isinstance(value, tuple):
            yield f"{name}_sum{shown} {_number(value[0])}"
            yield f"{name}_count{shown} {_number(value[1])}"
        else:
            yield f"{name}{shown} {_number(value)}"


def _shown(labels: Iterable[tuple[str, str]]) -> str:
    text = ",".join(f'{name}="{_escaped(value, quoted=True)}"' for name, value in labels)
    return f"{{{text}}}" if text else ""


def _escaped(text: str, *, quoted: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quoted else text


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(round(value, 6))
