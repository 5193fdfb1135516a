"""`python -m mlis`."""

import sys

from mlis.cli import main

sys.exit(main())
