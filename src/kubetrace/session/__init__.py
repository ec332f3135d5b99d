"""One run: from what was asked for, through the pipeline, to the view that suits the output.

    options.py     what was asked for
    attach.py      a tracer's programs in the kernel, and the node's files around them
    loop.py        drain, count, show, until stop.py says that the user wants the end
    cost.py        what tracing takes
    sheet.py       one tracer's tables on the way down: grouping, whose rows, single events
    overall.py     several tracers as one table of pods; top_view.py shows it, top.py runs it
    view.py        what a run shows itself in: table_view.py, event_view.py, window_view.py; open_view.py chooses
    recorded.py    what a recording says of itself, and what is said of it
    trace.py       one tracer, live; with a recording beside it when asked for
    record.py      several tracers into a file, and nothing shown
    replay.py      a file as it was shown live
    export.py      a file's events for other tools

Nothing is imported here: a run pays only for its own view.
"""
