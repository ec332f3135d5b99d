"""The rows of a table, and how events and counters become them.

    aggregate.py  groups of rows: sums and maxima, bounded in number, exact in total
    joining.py    alike records as one, before anything is decoded
    tally.py      rows added up from events
    counting.py   rows of counters in the kernel: differences are taken here
    snapshot.py   records of counters taken apart, for counting.py
    sorting.py    their order

Nothing here does I/O or knows a source or a view.
"""
