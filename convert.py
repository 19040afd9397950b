"""Make a scene of a folder of photos or of a video: python convert.py -s PHOTOS; see `--help`."""

from gns import cli

if __name__ == "__main__":
    raise SystemExit(cli.run(cli.convert))
