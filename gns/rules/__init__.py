"""Growth and selection: one rule a file."""
