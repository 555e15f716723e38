"""x"""

import click


@click.command("explain")
def explain_command() -> int:
    """X."""
    return 0
