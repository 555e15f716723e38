"""A crash-time system-info collector that never makes the machine worse."""

__version__ = "0.1.0"
