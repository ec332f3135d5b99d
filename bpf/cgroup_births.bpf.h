/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Cgroups as they come and go: the first of the node facts, part of every tracer's object.
 *
 * cgroup_mkdir fires before any process can be in the cgroup, hence before its first event, and carries id
 * and path: user space reads the container's config.json at once, so that a container of 30 ms still has its
 * name. Raw tracepoints need no tracefs (it is not mounted inside `kubectl debug node`); present since 4.17,
 * the two cgroup tracepoints since 4.8.
 */
#ifndef KT_CGROUP_BIRTHS_BPF_H
#define KT_CGROUP_BIRTHS_BPF_H

#include "hooks.bpf.h"
#include "stream.bpf.h"

enum kt_cgroup_step {
	kt_cgroup_made,
	kt_cgroup_gone,
};

struct cgroup_event {
	kt_boot_ns time;
	kt_cgroup_id cgroup_id;
	kt_hierarchy hierarchy;
	__u16 step; /* enum kt_cgroup_step */
	__u16 path_bytes;
	char path[2048 - 8 - 24];
};
KT_STREAM(cgroups, cgroup_event, 1024 * 1024);

/* The first of what has a backup, in every tracer (hooks.bpf.h); a tracer's own enum kt_backed_up
 * follows. */
enum kt_backed_up_births {
	kt_backed_up_cgroup_mkdir,
	kt_backed_up_cgroup_rmdir,
	kt_backed_up_others,
};
enum kt_backed_up_births *kt_pin_backed_up_births __attribute__((unused));

static __always_inline int kt_cgroup_step(struct bpf_raw_tracepoint_args *ctx, __u16 step)
{
	struct cgroup *cgroup = (struct cgroup *)ctx->args[0];
	const char *path = (const char *)ctx->args[1];
	struct cgroup_event *event;
	long read;

	event = bpf_ringbuf_reserve(&cgroups, sizeof(*event), 0);
	if (!event) {
		kt_lost(kt_loss_ring_full);
		return 0;
	}
	__builtin_memset(event, 0, __builtin_offsetof(struct cgroup_event, path));
	event->time = bpf_ktime_get_boot_ns();
	event->cgroup_id = BPF_CORE_READ(cgroup, kn, id);
	event->hierarchy = BPF_CORE_READ(cgroup, root, hierarchy_id);
	event->step = step;
	read = bpf_probe_read_kernel_str(event->path, sizeof(event->path), path);
	event->path_bytes = read > 0 ? read - 1 : 0;
	/* rare, and user space has some 30 ms to react: this stream does wake its reader */
	bpf_ringbuf_submit(event, 0);
	return 0;
}

KT_RAW_TP(cgroup_mkdir, "cgroup_mkdir", kt_cgroup_step(ctx, kt_cgroup_made))
KT_RAW_TP(cgroup_rmdir, "cgroup_rmdir", kt_cgroup_step(ctx, kt_cgroup_gone))

#endif
