"""`python -m kythera.cli`: the same as the command `kythera`."""

import sys

from kythera.cli.main import main

sys.exit(main())
