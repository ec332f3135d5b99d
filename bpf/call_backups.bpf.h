/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Backups (hooks.bpf.h) of programs at functions that are called very often: kt_handled asks for two
 * updates of a map in each call, this for a byte.
 */
#ifndef KT_CALL_BACKUPS_BPF_H
#define KT_CALL_BACKUPS_BPF_H

#include "hooks.bpf.h"

/*
 * A byte for each tid (PID_MAX_LIMIT, 4 Mi), in words. Maps with such a name have one entry where no backups
 * are attached (engines/attached.py).
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4 * 1024 * 1024 / 8);
	__type(key, __u32);
	__type(value, __u64);
} calls_backed_up SEC(".maps");

/*
 * Whether the other copy did this call's work already; for functions that no interrupt calls. There (fentry,
 * fexit) the backup, which is attached last, runs first (kernel/bpf/trampoline.c, hlist_add_head), and the
 * first copy right after it in the same thread, whose byte says which group's backup has just run. A first
 * copy that is missed leaves it behind: if the thread's next call is one of the same group that its backup
 * misses, that one is lost, and told (engines/attached.py).
 */
static __always_inline bool kt_call_handled(__u32 group, __u32 copy)
{
	__u8 *call, own = group + 1;
	__u32 tid, index;

	if (!backed_up)
		return false;
	tid = bpf_get_current_pid_tgid();
	index = tid >> 3;
	call = bpf_map_lookup_elem(&calls_backed_up, &index);
	if (!call)
		return copy == kt_backup;
	call += tid & 7;
	if (copy == kt_backup) {
		*call = own;
	} else if (*call == own) {
		*call = 0;
		return true;
	}
	kt_did(group, copy);
	return false;
}

#endif
