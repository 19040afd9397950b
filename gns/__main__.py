"""`python -m gns`: the program `gns`, for where its folder of scripts is not on the path."""

from gns.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
