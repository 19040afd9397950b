"""Files of strangers against every reader."""
