/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where a program of `writes` works: each has a room of its own, by its group. */
#ifndef KT_WRITES_ROOM_BPF_H
#define KT_WRITES_ROOM_BPF_H

#include "cgroup_births.bpf.h"
#include "hooks.bpf.h"
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

#define WRITES_ONE_MORE(group)	 +1
#define WRITES_COUNTING		 (0 WRITES_COUNTING_GROUPS(WRITES_ONE_MORE))
#define WRITES_ROOM(group, copy) (kt_group_##group + ((copy) == kt_backup ? WRITES_COUNTING : 0))
#define KT_ROOMS		 (2 * WRITES_COUNTING)
#define KT_ROOM_MORE		 struct writes_event event;
#include "room.bpf.h"

KT_STREAM(writes_mounts, kt_mount_event, 1024 * 1024);
KT_STREAM(writes_places, kt_place_event, 1024 * 1024);

static __always_inline void kt_output_mount(struct kt_mount_event *event)
{
	kt_output(&writes_mounts, event, sizeof(*event));
}

static __always_inline void kt_output_place(struct kt_place_event *event)
{
	kt_output(&writes_places, event, sizeof(*event));
}

#endif
