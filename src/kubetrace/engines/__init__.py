"""The only room that touches BPF.

library.py is libbpf's face, attached.py what a loaded tracer gives whoever loaded it, libbpf.py and bcc/ the two
engines above them, source.py the door to both.
"""
