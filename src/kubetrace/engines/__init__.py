"""The only room that touches BPF."""
