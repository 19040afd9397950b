"""Train, render and score every scene of budget.txt: python test.py --data DATA"""

from gns import cli

if __name__ == "__main__":
    raise SystemExit(cli.run(cli.test))
