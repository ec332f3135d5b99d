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

/*
 * The groups that have a backup: those of enum kt_backed_up_births, and behind them the tracer's own, which
 * it lists once: `#define GROUPS(X) X(this) X(that)` and `KT_GROUPS(GROUPS);`. A program whose group is not
 * in the list does not compile; tests/unit/test_engine_translate.py finds a group in the list that has none.
 */
#define KT_GROUPS_AT_MOST      64
#define KT_GROUP_PLACE(group)  kt_group_##group,
#define KT_GROUP_NUMBER(group) kt_backed_up_##group = kt_backed_up_others + kt_group_##group,
#define KT_GROUPS(list)                                                                                      \
	enum { list(KT_GROUP_PLACE) kt_groups };                                                             \
	enum kt_backed_up { list(KT_GROUP_NUMBER) };                                                         \
	/* User space finds the names through this pointer's type. */                                        \
	enum kt_backed_up *kt_pin_backed_up __attribute__((unused));                                         \
	_Static_assert(kt_backed_up_others + kt_groups <= KT_GROUPS_AT_MOST, "a place for each group")

/* Calls that each copy did the work of. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, KT_GROUPS_AT_MOST *kt_copies);
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

/*
 * Programs. What is done at a function of the kernel is `call`, an expression; its programs are a group,
 * GROUP__HOOK, of which user space attaches the first that the kernel takes: fentry before kprobe. `call` may
 * use the arguments, which are declared as the kernel declares them, and `copy`: kt_first in fentry programs,
 * kt_backup in their backups, kt_only in kprobes, which run with preemption off.
 */
#define KT_PROGRAM(name, section, which, call, ...)                                                          \
	SEC(section)                                                                                         \
	int BPF_PROG(name, ##__VA_ARGS__)                                                                    \
	{                                                                                                    \
		const enum kt_copy copy __attribute__((unused)) = which;                                     \
                                                                                                             \
		return call;                                                                                 \
	}
#define KT_KPROBE(name, function, which, call, ...)                                                          \
	SEC("kprobe/" function)                                                                              \
	int BPF_KPROBE(name, ##__VA_ARGS__)                                                                  \
	{                                                                                                    \
		const enum kt_copy copy __attribute__((unused)) = which;                                     \
                                                                                                             \
		return call;                                                                                 \
	}
/* A kretprobe has the result alone. */
#define KT_KRETPROBE(name, function, which, call, returns)                                                   \
	SEC("kretprobe/" function)                                                                           \
	int BPF_KRETPROBE(name, returns)                                                                     \
	{                                                                                                    \
		const enum kt_copy copy __attribute__((unused)) = which;                                     \
                                                                                                             \
		return call;                                                                                 \
	}

/* A program and its backup. fexit's arguments are the function's and, at the end, its result. */
#define KT_BACKED_UP(group, hook, section, call, ...)                                                        \
	_Static_assert(kt_backed_up_##group < KT_GROUPS_AT_MOST, "its group is in the list");                \
	KT_PROGRAM(group##__##hook, section, kt_first, call, ##__VA_ARGS__)                                  \
	KT_PROGRAM(group##_backup__##hook, section, kt_backup, call, ##__VA_ARGS__)
#define KT_FENTRY(group, function, call, ...)                                                                \
	KT_BACKED_UP(group, fentry, "fentry/" function, call, ##__VA_ARGS__)
#define KT_FEXIT(group, function, call, ...)                                                                 \
	KT_BACKED_UP(group, fentry, "fexit/" function, call, ##__VA_ARGS__)

/* All programs at the entry of a function, and all at its return: there `call` may use the result alone. */
#define KT_ENTRY(group, function, call, ...)                                                                 \
	KT_FENTRY(group, function, call, ##__VA_ARGS__)                                                      \
	KT_KPROBE(group##__kprobe, function, kt_only, call, ##__VA_ARGS__)
#define KT_RETURN(group, function, call, returns, ...)                                                       \
	KT_FEXIT(group, function, call, ##__VA_ARGS__, returns)                                              \
	KT_KRETPROBE(group##__kprobe, function, kt_only, call, returns)
/* Without a backup: what is missed is counted, or has a backup of another kind. */
#define KT_ENTRY_ALONE(group, function, call, ...)                                                           \
	KT_PROGRAM(group##__fentry, "fentry/" function, kt_first, call, ##__VA_ARGS__)                       \
	KT_KPROBE(group##__kprobe, function, kt_only, call, ##__VA_ARGS__)
#define KT_RETURN_ALONE(group, function, call, returns, ...)                                                 \
	KT_PROGRAM(group##__fentry, "fexit/" function, kt_first, call, ##__VA_ARGS__, returns)               \
	KT_KRETPROBE(group##__kprobe, function, kt_only, call, returns)

/* A program at a raw tracepoint, and its backup, which must be defined in this order. */
#define KT_RAW_TP_COPY(name, tracepoint, group, copy, call)                                                  \
	SEC("raw_tp/" tracepoint)                                                                            \
	int name(struct bpf_raw_tracepoint_args *ctx)                                                        \
	{                                                                                                    \
		return kt_handled(kt_backed_up_##group, copy) ? 0 : call;                                    \
	}
#define KT_RAW_TP(group, tracepoint, call)                                                                   \
	KT_RAW_TP_COPY(group##__raw_tp, tracepoint, group, kt_first, call)                                   \
	KT_RAW_TP_COPY(group##_backup__raw_tp, tracepoint, group, kt_backup, call)

#endif
