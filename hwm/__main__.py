"""`python -m hwm` is the `hwm` command."""

import sys

from hwm.cli import main

sys.exit(main())
