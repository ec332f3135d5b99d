"""python3 -m kubetrace."""

from kubetrace.cli import main

main()
