"""What an archived incident tells a person; only the command line imports it."""
