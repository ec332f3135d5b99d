/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * pulls: how images arrive. Of the kernel it asks which processes unpack: runtimes leave gzip to a program
 * where there is one (containerd archive/compression/compression.go: unpigz, igzip), and containers-storage
 * has each layer unpacked by a child of its own. Everything else is in the runtimes' files, with their own
 * times (src/kubetrace/tracers/pulls/watch.py).
 */
#include "cgroup_births.bpf.h"
#include "who.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* The groups of programs that have a backup. */
#define PULLS_GROUPS(X) X(exit)
KT_GROUPS(PULLS_GROUPS);

/* A decompressor that has ended. */
struct pulls_unpacker {
	KT_WHO;
	kt_boot_ns begun;   /* when the process was made */
	kt_duration_ns cpu; /* that all its threads used */
	__u32 parent;	    /* process id */
	char parent_comm[16];
	char pad[120 - KT_WHO_BYTES - 36];
};
KT_STREAM(unpackers, pulls_unpacker, 64 * 1024);

static __always_inline bool unpacker_is(const char *comm, const char *name, __u32 bytes)
{
	for (__u32 at = 0; at < bytes; at++) {
		if (comm[at] != name[at])
			return false;
	}
	return true;
}

/* The last thread of a process exits. */
static __always_inline int unpacker_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx->args[0];
	struct signal_struct *signal;
	struct pulls_unpacker *event;
	struct task_struct *parent;
	char comm[16];

	bpf_get_current_comm(comm, sizeof(comm));
	if (!unpacker_is(comm, "unpigz", 7) && !unpacker_is(comm, "igzip", 6))
		return 0;
	signal = BPF_CORE_READ(task, signal);
	if (BPF_CORE_READ(signal, live.counter) > 0)
		return 0;
	event = bpf_ringbuf_reserve(&unpackers, sizeof(*event), 0);
	if (!event) {
		kt_lost(kt_loss_ring_full);
		return 0;
	}
	__builtin_memset(event, 0, sizeof(*event));
	if (!kt_who_runs(event)) {
		bpf_ringbuf_discard(event, BPF_RB_NO_WAKEUP);
		return 0;
	}
	event->begun = BPF_CORE_READ(task, group_leader, start_boottime);
	event->cpu = BPF_CORE_READ(signal, sum_sched_runtime) + BPF_CORE_READ(task, se.sum_exec_runtime);
	parent = BPF_CORE_READ(task, real_parent);
	event->parent = BPF_CORE_READ(parent, tgid);
	bpf_probe_read_kernel_str(event->parent_comm, sizeof(event->parent_comm), parent->comm);
	bpf_ringbuf_submit(event, kt_wake(&unpackers, sizeof(*event)));
	return 0;
}

KT_RAW_TP(exit, "sched_process_exit", unpacker_exit(ctx))
