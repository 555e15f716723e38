"""Any other files: logs, configuration, what an application leaves behind."""
