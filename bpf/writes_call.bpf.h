/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* An operation from its entry to its return: what a program there remembers for the one here. */
#ifndef KT_WRITES_CALL_BPF_H
#define KT_WRITES_CALL_BPF_H

#include "who.bpf.h"
#include "writes_key.bpf.h"

/* Beside the operations: inside fsync(2) or fdatasync(2), msync(2), sync_file_range(2), a rename. */
#define writes_syncing	     64
#define writes_msyncing	     65
#define writes_range_syncing 66
#define writes_renaming	     67
#define writes_renaming_over 68 /* in an overlay, which renames in the file system below */
#define writes_aio_syncing   69

struct writes_start {
	void *object; /* file, path or request */
	kt_boot_ns time;
	__u64 nested; /* a call by a stacking file system is under way inside */
};
/*
 * An operation that a thread is in. What finds no room is told as lost: an LRU map would drop one that is
 * under way, unsaid. An entry whose return the kernel missed (which is counted) stays until the thread begins
 * another such operation.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768); /* threads in operations at one time */
	__type(key, __u64);	    /* pid_tgid | operation << 56 */
	__type(value, struct writes_start);
} starts SEC(".maps");
struct writes_request {
	struct file *file;
	kt_boot_ns time;
	struct kt_cgroups who;
	__u64 thread;
};
/*
 * An aio request on its way. What finds no room is told as lost; LRU maps drop what is in flight unsaid, and
 * on many CPUs long before they are full. One whose completion was missed is told when its memory is given to
 * another: kernels before 6.7 do not count what a kprobe misses that interrupts another (trace_call_bpf).
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536); /* fs.aio-max-nr's default */
	__type(key, __u64);	    /* struct kiocb * */
	__type(value, struct writes_request);
} requests SEC(".maps");

static __always_inline __u64 writes_thread(__u32 operation)
{
	return bpf_get_current_pid_tgid() | (__u64)operation << 56;
}

/* An operation begins; of one inside it (nested), only that it does. */
static __always_inline int writes_begin(__u32 operation, const void *object, bool nested)
{
	__u64 thread = writes_thread(operation);
	struct writes_start start = {.object = (void *)object};
	struct writes_start *outer;

	if (nested) {
		outer = bpf_map_lookup_elem(&starts, &thread);
		if (outer)
			outer->nested = 1;
		return 0;
	}
	start.time = bpf_ktime_get_boot_ns();
	if (bpf_map_update_elem(&starts, &thread, &start, BPF_ANY))
		kt_lost(kt_loss_map_full);
	return 0;
}

/* Whether the thread is in such an operation. */
static __always_inline bool writes_is_in(__u32 operation)
{
	__u64 thread = writes_thread(operation);

	return bpf_map_lookup_elem(&starts, &thread) != 0;
}

/* How long the operation took that ends now, for fexit, which has the arguments at hand. */
static __always_inline kt_duration_ns writes_duration(__u32 operation)
{
	struct writes_start *start;
	kt_duration_ns duration;
	__u64 thread;

	if (!latency && !events)
		return 0;
	thread = writes_thread(operation);
	start = bpf_map_lookup_elem(&starts, &thread);
	if (!start)
		return 0;
	duration = bpf_ktime_get_boot_ns() - start->time;
	bpf_map_delete_elem(&starts, &thread);
	return duration;
}

/* The object of the operation that ends now, for kretprobes, which have the result alone; 0: none. */
static __always_inline void *writes_object(__u32 operation, kt_duration_ns *duration)
{
	__u64 thread = writes_thread(operation);
	struct writes_start *start = bpf_map_lookup_elem(&starts, &thread);
	void *object;

	if (!start)
		return 0;
	if (start->nested) {
		start->nested = 0;
		return 0;
	}
	object = start->object;
	*duration = bpf_ktime_get_boot_ns() - start->time;
	bpf_map_delete_elem(&starts, &thread);
	return object;
}

#endif
