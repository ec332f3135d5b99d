/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The cgroups of a process that does not run now, and whether it is a container's first. */
#ifndef KT_TASK_CGROUPS_BPF_H
#define KT_TASK_CGROUPS_BPF_H

#include "cgroup_first.bpf.h"

/* The memory controller's state of a task's cgroup, or of the nearest above that has one; 0: no such
 * controller. */
static __always_inline struct cgroup_subsys_state *kt_memory_of(struct task_struct *task)
{
	struct cgroup_subsys_state *css = 0;
	struct css_set *set;
	__u64 index;

	if (!bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id))
		return 0;
	index = bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id);
	set = BPF_CORE_READ(task, cgroups);
	bpf_probe_read_kernel(&css, sizeof(css),
			      (void *)set + bpf_core_field_offset(set->subsys) + index * sizeof(void *));
	return css;
}

static __always_inline void kt_task_cgroups(struct task_struct *task, struct kt_cgroups *who)
{
	struct cgroup_subsys_state *css = kt_memory_of(task);

	who->id = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
	who->memory_id = BPF_CORE_READ(css, cgroup, kn, id);
	who->memory_hierarchy = BPF_CORE_READ(css, cgroup, root, hierarchy_id);
}

/*
 * Whether a process is a container's first that ran before we were attached: number 1 of a PID namespace
 * whose parent (the shim) is elsewhere. One that shares the node's PID namespace is not known then.
 */
static __always_inline bool kt_was_first(struct task_struct *task, const struct kt_cgroups *who)
{
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	__u32 level = BPF_CORE_READ(pid, level);
	struct css_set *parent = BPF_CORE_READ(task, real_parent, cgroups);
	struct css_set *own = BPF_CORE_READ(task, cgroups);
	struct upid *numbers = (void *)pid + bpf_core_field_offset(pid->numbers);
	int number = 0;

	/* MAX_PID_NS_LEVEL is 32 */
	if (!level || level > 32 || parent == own || kt_cgroup_born(who))
		return false;
	bpf_probe_read_kernel(&number, sizeof(number),
			      (void *)numbers + level * bpf_core_type_size(struct upid) +
				  bpf_core_field_offset(struct upid, nr));
	return number == 1;
}

#endif
