"""Render the views of a trained model: python render.py -m MODEL"""

from gns import cli

if __name__ == "__main__":
    raise SystemExit(cli.run(cli.render))
