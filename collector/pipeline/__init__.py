"""From YAML to steps that can be run, and what they would do."""
