"""What 3DGS users look for under this name: test.py, which trains, renders and scores every scene of a list."""

import sys

from gns import cli

if __name__ == "__main__":
    sys.exit(cli.run(cli.test))
