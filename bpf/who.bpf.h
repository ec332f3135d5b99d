/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Whose an event is: the cgroups of the thread that runs, the filter by them, and how an event says so. */
#ifndef KT_WHO_BPF_H
#define KT_WHO_BPF_H

#include "units.bpf.h"

/* Who runs: the v2 cgroup, and the memory controller's where that is on a v1 hierarchy (v2 ids are 1 for all
 * there). */
struct kt_cgroups {
	kt_cgroup_id id;
	kt_cgroup_id memory_id;
	kt_hierarchy memory_hierarchy;
};

/* Whether the memory controller is on a v1 hierarchy. Where it is not, the v2 id says all there is to say. */
const volatile bool memory_on_v1 = true;

static __always_inline void kt_current_cgroups(struct kt_cgroups *who)
{
	struct cgroup_subsys_state *css = 0;
	struct task_struct *task;
	struct css_set *set;
	__u64 index;

	who->id = bpf_get_current_cgroup_id();
	who->memory_id = 0;
	who->memory_hierarchy = 0;
	if (!memory_on_v1)
		return;
	if (!bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id))
		return;
	index = bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id);
	task = (struct task_struct *)bpf_get_current_task();
	set = BPF_CORE_READ(task, cgroups);
	bpf_probe_read_kernel(&css, sizeof(css),
			      (void *)set + bpf_core_field_offset(set->subsys) + index * sizeof(void *));
	who->memory_id = BPF_CORE_READ(css, cgroup, kn, id);
	who->memory_hierarchy = BPF_CORE_READ(css, cgroup, root, hierarchy_id);
}

/*
 * The filter holds the cgroups that user space has judged not to be asked for. What is unknown passes and is
 * judged in user space: a pod that was born a microsecond ago is never missed because of its filter.
 */
struct kt_cgroup_key {
	kt_cgroup_id id;
	__u64 hierarchy;
};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, 1); /* BPF_F_NO_PREALLOC: most runs have no filter */
	__type(key, struct kt_cgroup_key);
	__type(value, __u8);
} excluded_cgroups SEC(".maps");

const volatile bool filter_by_cgroup = false;

static __always_inline bool kt_excluded(const struct kt_cgroups *who)
{
	struct kt_cgroup_key key;

	if (!filter_by_cgroup)
		return false;
	key.id = who->id;
	key.hierarchy = 0;
	if (bpf_map_lookup_elem(&excluded_cgroups, &key))
		return true;
	key.id = who->memory_id;
	key.hierarchy = who->memory_hierarchy;
	return bpf_map_lookup_elem(&excluded_cgroups, &key) != 0;
}

/*
 * What an event begins with. KT_WHOSE: when, and the container by which it is attributed; KT_WHO: and which
 * of its threads.
 */
#define KT_WHOSE                                                                                             \
	kt_boot_ns time;                                                                                     \
	kt_cgroup_id cgroup_id;                                                                              \
	kt_cgroup_id memory_cgroup_id;                                                                       \
	kt_hierarchy memory_hierarchy;                                                                       \
	kt_dev device; /* of an overlay, where the event is about a file in one: else 0 */                   \
	__u32 pid      /* the kernel's tgid */
#define KT_WHO                                                                                               \
	KT_WHOSE;                                                                                            \
	__u32 tid;                                                                                           \
	char comm[16]
#define KT_WHO_BYTES 56

struct kt_who {
	KT_WHO;
};

static __always_inline void kt_whose(void *event, const struct kt_cgroups *cgroups)
{
	struct kt_who *who = event;

	who->time = bpf_ktime_get_boot_ns();
	who->cgroup_id = cgroups->id;
	who->memory_cgroup_id = cgroups->memory_id;
	who->memory_hierarchy = cgroups->memory_hierarchy;
}

/* Fill in the beginning of an event that is all zeros; false where its cgroup is not asked for. */
static __always_inline bool kt_who_runs(void *event)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct kt_who *who = event;
	struct kt_cgroups cgroups;

	kt_current_cgroups(&cgroups);
	if (kt_excluded(&cgroups))
		return false;
	kt_whose(event, &cgroups);
	who->pid = thread >> 32;
	who->tid = thread;
	bpf_get_current_comm(who->comm, sizeof(who->comm));
	return true;
}

#endif
