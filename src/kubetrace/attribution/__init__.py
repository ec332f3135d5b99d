"""From cgroup ids and device numbers to pods, containers and layers: facts first, conclusions from facts.

One way: the room `node` looks and gives `facts`; `attributor` concludes from facts, `destination` where a write lands,
`whose` asks both for an event. No I/O here: it works without BPF, without a running container runtime and without the
API server.
"""
