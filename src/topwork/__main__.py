"""The command `topwork`: it listens to signals first, and loads the rest then."""

import sys

from topwork.core import interrupts


def run() -> None:
    """Runs the command line; ends the process."""
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
