"""One evaluator: scores solutions. The same as `coppice evaluator`."""

from coppice.cli import script

if __name__ == "__main__":
    script("evaluator")()
