"""python3 -m kubetrace."""

import sys

from kubetrace.commands.start import main

sys.exit(main())
