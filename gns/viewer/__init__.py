"""A viewer in the browser, served on this machine alone: viser, the extra `viewer`."""
