"""`kubectl kubetrace`: kubetrace on nodes of a cluster, from wherever kubectl works. No BPF here, and no Linux.

    kubectl.py      every call of kubectl: nodes, debug pods, their end
    attended.py     the other end of that, in the debug pod: begin when someone listens, end when they leave
    streams.py      one kubectl debug for each node, read side by side
    node_window.py  one node's table, as it came
    merge.py        the tables of many nodes as one

What is asked for is commands/plugin.py's.
"""
