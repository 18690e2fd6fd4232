"""`python -m topwork`, the same as `topwork`."""

import sys

from topwork.cli import main

if __name__ == "__main__":
    sys.exit(main())
