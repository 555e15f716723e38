"""``collector metrics``: what the daemon counts, for Prometheus."""

from __future__ import annotations

import click

from collector.cli.options import config_option
from collector.config.load import find
from collector.daemon.requests import metrics_of, runtime_directory


@click.command("metrics")
@config_option
def metrics_command(*, config: str | None) -> int:
    """
    Print the daemon's metrics, in the text format of Prometheus.

    The key metrics.textfile has it write the same for node_exporter.
    """
    click.echo(metrics_of(runtime_directory(find(config))), nl=False)
    return 0
