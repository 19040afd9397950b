"""Score rendered test views: python metrics.py -m MODEL [MODEL ...]"""

from gns import cli

if __name__ == "__main__":
    raise SystemExit(cli.run(cli.metrics))
