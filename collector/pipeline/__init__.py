"""From YAML to steps, and the straight line that runs them in workers."""
