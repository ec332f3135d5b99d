"""`kubectl kubetrace`: kubetrace on nodes of a cluster, from wherever kubectl works. No BPF here, and no Linux.

cli.py      what is asked for: which command, on which nodes
kubectl.py  every call of kubectl: nodes, debug pods, their end
streams.py  one kubectl debug for each node, read side by side
merge.py    the tables of many nodes as one
"""
