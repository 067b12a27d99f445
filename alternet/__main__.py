"""``python -m alternet`` is the command ``alternet``."""

import sys

from alternet.analysis.cli import main

if __name__ == "__main__":
    sys.exit(main())
