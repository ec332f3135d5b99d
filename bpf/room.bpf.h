/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where a program works that tells mounts, places and paths: each has a room of its own. A tracer says first
 * how many rooms there are (KT_ROOMS) and what else is made in one (KT_ROOM_MORE), and then by which of its
 * streams mounts and places are told: kt_output_mount and kt_output_place.
 */
#ifndef KT_ROOM_BPF_H
#define KT_ROOM_BPF_H

#include "hooks.bpf.h"
#include "path.bpf.h"
#include "stream.bpf.h"

/* A mount, when the first counter of it is made. Paths are leaf first, as kt_path gives them. */
struct kt_mount_event {
	kt_boot_ns time;
	kt_mount mount;
	__u64 magic; /* of the file system */
	kt_dev device;
	__u32 mount_id;	 /* as in mountinfo */
	__u32 namespace; /* inode number of the mount namespace; 0: in none (memfd, pipe, socket) */
	__u16 root_bytes;
	__u16 root_end;	   /* enum kt_path_end */
	__u16 point_bytes; /* of the mount point, from the root of the file system it is on */
	__u16 point_end;
	__u32 in_node; /* in the namespace of the node's PID 1 */
	char type[16];
	char source[64];
	__u32 whole; /* not a mount, but a file system: the mount point is one of those that it has */
	__u32 reserved;
	char root[952];
	char point[952];
};

/* A place: a directory, or a file where these are told apart. */
struct kt_place_event {
	kt_boot_ns time;
	kt_place place;
	kt_dev device;
	__u16 path_bytes;
	__u16 path_end;
	char path[1024 - 8 - 24];
};

static __always_inline void kt_output_mount(struct kt_mount_event *event);
static __always_inline void kt_output_place(struct kt_place_event *event);

struct kt_scratch {
	union {
		struct kt_mount_event mount;
		struct kt_place_event place;
		KT_ROOM_MORE
	};
	char path[KT_PATH_BYTES + KT_NAME_BYTES];
};

/*
 * One copy of a program runs on a CPU at a time, but another program may, where a preempted one waits: each
 * has a room of its own on each CPU.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, KT_ROOMS);
	__type(key, __u32);
	__type(value, struct kt_scratch);
} scratch_backed_up SEC(".maps");

static __always_inline struct kt_scratch *kt_scratch_of(__u32 room)
{
	__u32 index = backed_up ? room : 0;

	return bpf_map_lookup_elem(&scratch_backed_up, &index);
}

static const char zeros[KT_PATH_BYTES + KT_NAME_BYTES];

/*
 * A function of its own: the verifier looks at it once for a program, not once for each way that leads there,
 * and its ways do not become the caller's. Such functions take numbers only (pointers since 5.13).
 */
#define kt_function __attribute__((noinline))

#endif
