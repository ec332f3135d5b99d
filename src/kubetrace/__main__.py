"""python3 -m kubetrace."""

import sys

from kubetrace.entry import main

sys.exit(main())
