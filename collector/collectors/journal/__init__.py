"""The last lines before the crash."""
