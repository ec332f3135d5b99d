"""What a source hands on, whatever it is: records in batches, batches in steps.

    layout.py  how a stream's records lie in memory, and a batch of them
    steps.py   a step: facts, batches, losses, a tick; nothing else is told to whatever is above the bytes
    live.py    the running node as a source of steps

The other source is a recording (recording/).
"""
