"""What the user sees: columns and windows become a live table, plain lines, JSON or CSV.

    columns.py   a Column is declared once; every renderer reads it
    window.py    a Window: what one interval looks like (rows, head, foot, notices), before any width is known
    text.py      untrusted names made safe and visible; widths in terminal cells; cutting
    units.py     numbers and times for people, and sizes and durations as people type them
    table.py     a Window as lines of at most so many cells: pure, the one layout that all tables share
    navigation.py  what keys make of a table's state: pure; keymap.py declares them, filter.py is what / types
    overlay.py   what lies over the table: the keys, the list of columns
    trend.py     what a live table adds to rows: growth, the last minute, bars
    timeline.py  where a replay is, as a line
    picture.py   the screen as SVG
    screen.py    that table on a terminal, in place; `open_table` picks live or plain
    frame.py     those lines with rich's styles, imported by screen.py when the screen is taken
    plain.py     that table on a pipe or a dumb terminal
    lines.py     one line per event
    records.py   objects as JSON, YAML or by a template
    json.py      one JSON object per line
    yaml.py      one YAML document per object
    jsonpath.py  kubectl's templates
    csv.py       RFC 4180
    keys.py      single keys from the terminal
    suspend.py   Ctrl-Z and fg, for whoever changed the terminal
    output.py    writing, and what a write can raise

This room knows columns and windows, nothing else. Nothing is imported here: a command pays only for its own view.
"""
