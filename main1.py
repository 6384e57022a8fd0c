"""The master: opens the run, orders its rounds, closes it. The same as `coppice master`."""

from coppice.cli import script

if __name__ == "__main__":
    script("master")()
