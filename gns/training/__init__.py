"""A run: its state, its loop, and those who watch."""
