"""The command line: one module for each command, and nothing that could do without one.

    start.py     the console script
    help.py      the text of --help
    group.py     finds the tracers and the other commands
    trace.py     the command of a tracer
    options.py   options that several commands share
    exits.py     errors in words, exit statuses
    plugin.py    kubectl kubetrace

Nothing is imported here: --help has no time for it.
"""
