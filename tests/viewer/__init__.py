"""The live viewer towards browsers and others that connect to it."""
