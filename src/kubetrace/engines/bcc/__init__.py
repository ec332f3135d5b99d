"""The engine for kernels without BTF: the same bpf/*.bpf.c, compiled on the node by Debian's python3-bpfcc.

    engine.py     what is compiled, loaded and attached
    translate.py  the source as bcc takes it
    headers.py    the kernel's headers, or what stands in for them
    compiler.py   a script for a process of its own: the only one that imports bcc
    cache.py      what was compiled before

The package `bcc` is imported by none of the others: LLVM takes 100 MB.
"""
