"""The .ktrace file: what a run was told, kept for those who come after the pod is gone. This page is the format.

A file is a row of frames and nothing else; it is only ever appended to. Numbers are little endian. A frame is 52 bytes

    magic     4s  "KTF1"
    kind      B   H S F B L E (below); a reader leaves out kinds that it does not know
    flags     B   bit 0: the payload is one zstd frame; bit 1: in it are columns (below); a frame with a flag unknown to
                  the reader is left out
    stream    H   which stream of the header a batch is of; 0 elsewhere
    segment   I   frames of one flush have the same number; it rises by one
    rows      I   records, facts, steps or lines in the payload
    first     I   number of the first of them in its segment (and stream)
    size      I   bytes of the payload when unpacked, of columns as records again; at most 8 MiB
    length    I   bytes of the payload here, at most 8 MiB + 64 KiB
    begin     Q   nanoseconds since the recording began, of the segment's first step
    end       Q   and of its last
    crc       I   CRC-32 (zlib) of the payload here
    check     I   CRC-32 of the 48 bytes before

and its payload. The kinds:

    H  header   JSON: format ("kubetrace recording"), version (2), kubetrace (version), node, kernel, clock_offset_ns
                (to add to CLOCK_BOOTTIME for Unix time), part (from 1; files made by rotation continue one another)
                and tracers: name, hook, missing (what is therefore not seen), selection (namespaces, pods, containers:
                what -n, -p and -c said), options, and streams: number, name, layout (Layout.to_json). Written twice,
                so that no single flaw costs the file.
    S  steps    rows in the order of time: elapsed_ns Q, wall_ns q, cpu_ns Q, facts I, has_tick B, then for each stream
                in the header's order its records I: what came between the row before and this one (steps.Step)
    F  facts    lines of attribution/facts.py: names, images, layers, mounts; field names are the contract
    B  batch    records as the kernel's ring gave them, each behind its 8-byte ring header; see its stream's layout
    L  losses   lines of JSON: step (number in its segment), tracer, losses (kind -> count since the start)
    E  end      JSON: rows (tracer -> records), elapsed_ns, wall_ns, losses, and continued: whether FILE goes on in the
                next part. Its absence says that the recorder was killed, or its disk full.

Columns are a batch of at most 16,384 records in another order, which zstd packs better: first I, the place in a record
from which it is text (its members of bytes behind the last number), then for each place before it the bytes that the
records have there, one of each. Where there is text, the number of the first record with the same follows, 16 bits of
each record: all low bytes, then all high ones; then those texts, each once, in the order of their records. Version 1
has no columns.

A segment is flushed by one write(2), at least once a second: S, F, L, then B. Every frame is compressed on its own,
so whatever is damaged costs itself only. A frame whose `check` is wrong is not a frame: the reader looks for the next
magic behind it. One whose `crc` is wrong is left out as a whole. What follows the last whole frame does not exist. All
three are reported (Damage). The first segment of a file made by rotation holds every fact so far: each part stands
alone.

Fields may be added to any JSON; a change that an old reader would misread raises `version`, which it refuses.
"""
