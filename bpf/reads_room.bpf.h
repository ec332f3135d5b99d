/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Where a program of `reads` works: each has a room of its own, by its group; and what it tells. */
#ifndef KT_READS_ROOM_BPF_H
#define KT_READS_ROOM_BPF_H

#include "cgroup_births.bpf.h"
#include "hooks.bpf.h"
#include "reads_key.bpf.h"
#include "who.bpf.h"

/* A file, when it is first read: names and nothing of what is in it. Paths are leaf first, as kt_path gives
 * them. */
struct reads_file_event {
	KT_WHOSE; /* of nobody: zeros but for the time */
	kt_dev volume;
	kt_place file;
	enum reads_kind kind;
	__u16 path_bytes; /* in its file system */
	__u16 path_end;	  /* enum kt_path_end */
	__u16 point_bytes;
	__u16 point_end;
	__u32 in_memory; /* on tmpfs: what is read is counted too */
	char path[984];
	char point[992]; /* the volume's directory, where all of the file system is the volume */
};
KT_STREAM(reads_files, reads_file_event, 1024 * 1024);

/* clang-format off */
#define READS_GROUPS(X) X(open) X(read) X(read_begin) X(splice) X(splice_begin) X(map)
/* clang-format on */
KT_GROUPS(READS_GROUPS);

#define READS_ONE_MORE(group)	+1
#define READS_COUNTING		(0 READS_GROUPS(READS_ONE_MORE))
#define READS_ROOM(group, copy) (kt_group_##group + ((copy) == kt_backup ? READS_COUNTING : 0))
#define KT_ROOMS		(2 * READS_COUNTING)
#define KT_ROOM_MORE		struct reads_file_event file;
#include "room.bpf.h"

#endif
