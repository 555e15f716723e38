"""The YAML file: its types, its loader, its schema."""
