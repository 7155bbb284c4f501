"""``python -m cfexplain.cli``."""

import sys

from cfexplain.cli import main

if __name__ == "__main__":
    sys.exit(main())
