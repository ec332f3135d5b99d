"""The command line: one module for each command, and nothing that could do without one.

    start.py     the console script
    help.py      the text of --help
    group.py     finds the tracers and the other commands
    trace.py     the command of a tracer
    options.py   options that several commands share
    complete.py  what a shell completes: names of the node, of a tracer, of a recording
    exits.py     errors in words, exit statuses
    version.py   what --version says
    plugin.py    kubectl kubetrace; kubectl_group.py: its commands and options, for help and completion


Nothing is imported here: --help has no time for it.
"""
