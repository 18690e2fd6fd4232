"""The command `topwork`: it listens to signals first, and loads the rest then."""

import gc
import sys

from topwork.core import interrupts

# Garbage is looked for after so many new objects. A command imports and makes many that stay: with
# Python's own 700 it looks for a twentieth of its time.
FEW, SOME, MANY = 20_000, 50, 1000


def run() -> None:
    """Runs the command line; ends the process."""
    gc.set_threshold(FEW, SOME, MANY)
    interrupts.watch()
    try:
        from topwork.cli import run as run_command
    except KeyboardInterrupt:
        message, code = interrupts.describe_end()
        if message:
            sys.stderr.write(f"topwork: {message}\n")
        interrupts.leave(code)
    run_command()


if __name__ == "__main__":
    run()
