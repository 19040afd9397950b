"""Train a compact 3D Gaussian Splatting model: `python train.py -s SCENE --final-budget SIZE`; see `--help`."""

import sys

from gns.cli import run, train

if __name__ == "__main__":
    sys.exit(run(train))
