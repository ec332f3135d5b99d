"""The rows of a table, and how events and counters become them.

    contract.py   what a table is, whatever keeps its rows
    kinds.py      which of the three a tracer has:
    summed.py       sums of events
    counted.py      counters in the kernel: differences are taken here
    boarded.py      a board of the tracer's own
    snapshot.py   records of counters, taken apart
    tally.py      rows added up from events, by grouping
    joining.py    alike records as one, before anything is decoded
    aggregate.py  groups of rows: sums and maxima, bounded in number, exact in total
    sorting.py    their order
    pages.py      the rows that fit a screen, of very many

Nothing here does I/O or knows a source or a view.
"""
