"""``python -m cfexplain.cli``."""

import sys

from cfexplain.cli import main

sys.exit(main())
