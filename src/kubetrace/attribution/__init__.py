"""From cgroup ids and device numbers to pods, containers and layers: facts first, conclusions from facts.

One way: `node` looks (the only room with I/O on the node's files) and gives `facts`; `attributor` concludes from facts.
It works without BPF, without a running container runtime and without the API server.
"""
