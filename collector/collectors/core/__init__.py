"""The core of the crash."""
