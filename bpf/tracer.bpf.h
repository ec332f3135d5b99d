/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a tracer of your own includes (kubetrace run FILE.bpf.c; docs/own-tracer.md): the streams, the
 * kernel's structs, the filter, and who runs.
 */
#ifndef KT_TRACER_BPF_H
#define KT_TRACER_BPF_H

#include "cgroup_births.bpf.h"
#include "path.bpf.h"
#include "who.bpf.h"

/* Room for one event on a CPU, all zeros: an event does not fit the stack where it has a path. */
#define KT_ROOM(name, event)                                                                                 \
	struct {                                                                                             \
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);                                                     \
		__uint(max_entries, 1);                                                                      \
		__type(key, __u32);                                                                          \
		__type(value, struct event);                                                                 \
	} name SEC(".maps");                                                                                 \
	static __always_inline struct event *name##_cleared(void)                                            \
	{                                                                                                    \
		static const struct event zeros;                                                             \
		__u32 zero = 0;                                                                              \
		struct event *kt_found = bpf_map_lookup_elem(&name, &zero);                                  \
                                                                                                             \
		if (kt_found)                                                                                \
			bpf_probe_read_kernel(kt_found, sizeof(*kt_found), &zeros);                          \
		return kt_found;                                                                             \
	}                                                                                                    \
	_Static_assert(sizeof(struct event) > KT_WHO_BYTES, "an event says more than who")

struct kt_whole_path {
	char names[KT_PATH_BYTES + KT_NAME_BYTES];
};
KT_ROOM(kt_path_room, kt_whole_path);

/* A file's path as an event holds it (path, path_bytes, path_end): leaf first, cut where it does not fit. */
static __always_inline struct kt_path_walk kt_path_of(struct dentry *dentry, char *path, __u32 size)
{
	struct kt_whole_path *room = kt_path_room_cleared();
	struct kt_path_walk walk = {.bytes = 0, .end = kt_path_unnamed};

	if (!room)
		return walk;
	walk = kt_path(room->names, dentry);
	bpf_probe_read_kernel(path, size, room->names);
	if (walk.bytes > size) {
		walk.bytes = size;
		walk.end = kt_path_cut;
	}
	return walk;
}

#endif
