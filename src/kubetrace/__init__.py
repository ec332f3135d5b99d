"""kubetrace shows live, by pod, what a Kubernetes node's kernel does for its containers."""

__version__ = "0.1.0"
