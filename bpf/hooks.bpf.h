/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Programs at hooks, and their backups where the kernel may preempt a program. */
#ifndef KT_HOOKS_BPF_H
#define KT_HOOKS_BPF_H

#include "units.bpf.h"

/*
 * Backups. A program that is preempted keeps its CPU from running it for anybody else until it is resumed
 * (recursion_misses; kernel/bpf/trampoline.c, __bpf_prog_enter_recur; on 7.2 also
 * kernel/trace/bpf_trace.c, __bpf_trace_run). So on preemptible kernels each fentry or raw_tp program is
 * attached twice, as GROUP__fentry and GROUP_backup__fentry (or another hook): whichever copy runs first does
 * the work and counts it here, and the other sees that it is done. What neither ran for is the smaller of
 * what the two counts allow (engines/attached.py).
 */
enum kt_copy {
	kt_first,
	kt_backup,
	kt_copies,
	kt_only = kt_copies, /* a program without a backup */
};
/* User space finds the names through this pointer's type. */
enum kt_copy *kt_pin_copy __attribute__((unused));
/* Whether backups are attached; set before load. */
const volatile bool backed_up = false;

/* Groups at most; their index is enum kt_backed_up_births, and behind it the tracer's enum kt_backed_up. */
#define KT_BACKED_UP 32

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, KT_BACKED_UP *kt_copies);
	__type(key, __u32);
	__type(value, __u64);
} done SEC(".maps");

static __always_inline void kt_did(__u32 group, __u32 copy)
{
	__u32 index = group * kt_copies + copy;
	__u64 *count;

	if (copy == kt_only)
		return;
	count = bpf_map_lookup_elem(&done, &index);
	if (count)
		*count += 1;
}

/* Calls of which the first copy has done the work, until the backup has seen that: group << 32 | tid. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u8);
} handled SEC(".maps");

/*
 * Whether the other copy did this call's work already. For programs that cannot tell it from their own state;
 * it asks that the first copy runs before its backup, in the same thread: tracepoints keep the order in which
 * programs were attached.
 */
static __always_inline bool kt_handled(__u32 group, __u32 copy)
{
	__u64 call = (__u64)group << 32 | (__u32)bpf_get_current_pid_tgid();
	__u8 yes = 1;

	if (!backed_up || copy == kt_only)
		return false;
	if (copy == kt_first)
		bpf_map_update_elem(&handled, &call, &yes, BPF_ANY);
	else if (!bpf_map_delete_elem(&handled, &call))
		return true;
	kt_did(group, copy);
	return false;
}

/* A program at a raw tracepoint, and its backup, which must be defined in this order. */
#define KT_RAW_TP(group, tracepoint, call)                                                                   \
	SEC("raw_tp/" tracepoint)                                                                            \
	int group##__raw_tp(struct bpf_raw_tracepoint_args *ctx)                                             \
	{                                                                                                    \
		return kt_handled(kt_backed_up_##group, kt_first) ? 0 : call;                                \
	}                                                                                                    \
	SEC("raw_tp/" tracepoint)                                                                            \
	int group##_backup__raw_tp(struct bpf_raw_tracepoint_args *ctx)                                      \
	{                                                                                                    \
		return kt_handled(kt_backed_up_##group, kt_backup) ? 0 : call;                               \
	}

#endif
