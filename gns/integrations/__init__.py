"""Adapters that let other programs train and render with gns; none of them is needed by gns itself."""
