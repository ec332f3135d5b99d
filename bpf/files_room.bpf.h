/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where a program of `files` works: each has a room of its own, by its group. */
#ifndef KT_FILES_ROOM_BPF_H
#define KT_FILES_ROOM_BPF_H

#include "cgroup_births.bpf.h"
#include "files_key.bpf.h"
#include "hooks.bpf.h"

/* The groups of programs that have a backup: first those that count, then those at the entries. */
/* clang-format off */
#define FILES_COUNTING_GROUPS(X)                                                                             \
	X(open) X(lookup) X(stat) X(list) X(unlink) X(rmdir) X(mkdir) X(create) X(mknod) X(symlink) X(link)  \
	X(rename)
#define FILES_BEGIN_GROUPS(X)                                                                                \
	X(stat_begin) X(list_begin) X(unlink_begin) X(rmdir_begin) X(mkdir_begin) X(create_begin)            \
	X(mknod_begin) X(symlink_begin) X(link_begin) X(rename_begin) X(whiteout)
/* clang-format on */
#define FILES_GROUPS(X) FILES_COUNTING_GROUPS(X) FILES_BEGIN_GROUPS(X)
KT_GROUPS(FILES_GROUPS);

#define FILES_ONE_MORE(group)	+1
#define FILES_COUNTING		(0 FILES_COUNTING_GROUPS(FILES_ONE_MORE))
#define FILES_ROOM(group, copy) (kt_group_##group + ((copy) == kt_backup ? FILES_COUNTING : 0))
#define KT_ROOMS		(2 * FILES_COUNTING)
#define KT_ROOM_MORE
#include "room.bpf.h"

KT_STREAM(files_mounts, kt_mount_event, 1024 * 1024);
KT_STREAM(files_places, kt_place_event, 1024 * 1024);

static __always_inline void kt_output_mount(struct kt_mount_event *event)
{
	kt_output(&files_mounts, event, sizeof(*event));
}

static __always_inline void kt_output_place(struct kt_place_event *event)
{
	kt_output(&files_places, event, sizeof(*event));
}

#endif
