"""What tracers are made with: what one has to say of itself, and what it is given.

    tracer.py    what is asked of a tracer
    counted.py   what is asked of one that counts in the kernel, and the rows of that
    identity.py  what rows and objects say of a pod, the same in every tracer
    context.py   the node's name and clock
    own.py       a tracer whose columns follow from its struct (kubetrace run)

Nothing here knows a single tracer of ours.
"""
