"""`python -m mlis.cli`."""

import sys

from mlis.cli import main

sys.exit(main())
