"""`python -m topwork`, the same as `topwork`."""

from topwork.cli import run

if __name__ == "__main__":
    run()
