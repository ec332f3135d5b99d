/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where a program of `writes` works: each has a room of its own, by its group. */
#ifndef KT_WRITES_ROOM_BPF_H
#define KT_WRITES_ROOM_BPF_H

#include "cgroup_births.bpf.h"
#include "hooks.bpf.h"
#include "path.bpf.h"
#include "writes_key.bpf.h"

/* The groups of programs that have a backup: first those that count, then those at the entries. */
/* clang-format off */
#define WRITES_COUNTING_GROUPS(X)                                                                            \
	X(write) X(writev) X(aio) X(aio_end) X(iouring) X(sendfile) X(splice) X(copyrange) X(fallocate)      \
	X(truncate) X(truncatepath) X(fsync) X(fsynced) X(fdatasynced) X(rangesynced) X(mmap)     \
	X(fsynced32) X(fdatasynced32) X(rangesynced32) X(aiosynced) X(renamed)
#define WRITES_BEGIN_GROUPS(X)                                                                               \
	X(write_begin) X(writev_begin) X(aio_begin) X(iouring_begin) X(sendfile_begin) X(splice_begin)       \
	X(copyrange_begin) X(fallocate_begin) X(truncate_begin) X(truncatepath_begin) X(fsync_begin)         \
	X(fsynced_begin) X(fdatasynced_begin) X(rangesynced_begin) X(msynced_begin) X(msynced) X(fsynced32_begin) X(fdatasynced32_begin) X(rangesynced32_begin) X(msynced32_begin) X(msynced32) X(aiosynced_begin)    \
	X(renamed_begin)
/* clang-format on */
#define WRITES_GROUPS(X) WRITES_COUNTING_GROUPS(X) WRITES_BEGIN_GROUPS(X)
KT_GROUPS(WRITES_GROUPS);

struct writes_scratch {
	union {
		struct writes_mount_event mount;
		struct writes_place_event place;
		struct writes_event event;
	};
	char path[KT_PATH_BYTES + KT_NAME_BYTES];
};

/*
 * One copy of a program runs on a CPU at a time, but another program may, where a preempted one waits: each
 * has a room of its own on each CPU.
 */
#define WRITES_ONE_MORE(group)	 +1
#define WRITES_COUNTING		 (0 WRITES_COUNTING_GROUPS(WRITES_ONE_MORE))
#define WRITES_ROOM(group, copy) (kt_group_##group + ((copy) == kt_backup ? WRITES_COUNTING : 0))

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2 * WRITES_COUNTING);
	__type(key, __u32);
	__type(value, struct writes_scratch);
} scratch_backed_up SEC(".maps");

static __always_inline struct writes_scratch *writes_scratch_of(__u32 room)
{
	__u32 index = backed_up ? room : 0;

	return bpf_map_lookup_elem(&scratch_backed_up, &index);
}

static const char zeros[KT_PATH_BYTES + KT_NAME_BYTES];

/*
 * A function of its own: the verifier looks at it once for a program, not once for each way that leads there,
 * and its ways do not become the caller's. Such functions take numbers only (pointers since 5.13).
 */
#define writes_function __attribute__((noinline))

#endif
