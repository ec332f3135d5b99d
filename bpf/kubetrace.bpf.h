/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What every tracer shares in the kernel: units as type names, streams, losses, the cgroup filter, who runs,
 * paths.
 *
 * The C struct of an event is its schema: user space reads names, offsets and units from this object's BTF
 * (src/kubetrace/stream/layout.py) and holds no offset of its own. A typedef's name is the unit of the field.
 */
#ifndef KT_KUBETRACE_BPF_H
#define KT_KUBETRACE_BPF_H

#include "kernel.bpf.h"
#include "drift.bpf.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

typedef __u64 kt_boot_ns;     /* nanoseconds since boot, suspend included (CLOCK_BOOTTIME) */
typedef __u64 kt_duration_ns; /* nanoseconds */
typedef __u64 kt_bytes;	      /* bytes */
typedef __u64 kt_cgroup_id;   /* 64-bit kernfs id = st_ino of the cgroup's directory */
typedef __u32 kt_hierarchy;   /* 0 is cgroup v2, others as in the first column of /proc/self/cgroup */
typedef __u32 kt_dev;	      /* kernel dev_t: major << 20 | minor */
typedef __u64 kt_inode;	      /* inode number */
typedef __s32 kt_errno;	      /* 0 or a negative errno */
typedef __u32 kt_open_flags;  /* O_* as in open(2) */
typedef __u16 kt_mode;	      /* st_mode */

/*
 * A stream is a ring buffer whose records are all of one size; size + 8 (the ring's own header) is a power of
 * two, so that no record straddles the ring's end and user space decodes a whole drain in one call.
 */
#define KT_STREAM(name, event, bytes)                                                                        \
	struct {                                                                                             \
		__uint(type, BPF_MAP_TYPE_RINGBUF);                                                          \
		__uint(max_entries, bytes);                                                                  \
	} name SEC(".maps");                                                                                 \
	struct event *kt_pin_##name __attribute__((unused));                                                 \
	_Static_assert(((sizeof(struct event) + 8) & (sizeof(struct event) + 7)) == 0,                       \
		       "a record and its ring header fill a power of two")

/*
 * Counters are monotone numbers by key. A key has a slot of the array NAME and keeps it: a program that
 * remembers the slot counts without looking the key up, and user space reads the array where it is (mmap).
 * What is new or has changed is handed on as `record`s: the time of reading, the key, the values.
 *
 * NAME_find gives a key's slot, NAME_make a new one; 0: none. Who made one sets the record's time to 1 when
 * the rest of it is to be seen. The first slot is nobody's: its time is the number of slots that are given
 * out.
 */
#define KT_COUNTERS(name, key_type, record_type, entries)                                                    \
	struct name##_slot {                                                                                 \
		struct record_type record; /* at the very start: clang adds before it asks for 0 */          \
		__u64 header;		   /* 0: a ring has its own in front of the next record */           \
	};                                                                                                   \
	struct {                                                                                             \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                            \
		__uint(max_entries, entries);                                                                \
		__uint(map_flags, 1024); /* BPF_F_MMAPABLE, 5.5 */                                           \
		__type(key, __u32);                                                                          \
		__type(value, struct name##_slot);                                                           \
	} name SEC(".maps");                                                                                 \
	struct {                                                                                             \
		__uint(type, BPF_MAP_TYPE_HASH);                                                             \
		__uint(max_entries, entries);                                                                \
		__type(key, struct key_type);                                                                \
		__type(value, __u32);                                                                        \
	} name##_keys SEC(".maps");                                                                          \
	struct {                                                                                             \
		__uint(type, BPF_MAP_TYPE_HASH);                                                             \
		__uint(max_entries, 2 * KT_CLAIMS);                                                          \
		__type(key, __u32);                                                                          \
		__type(value, __u8);                                                                         \
	} name##_claims SEC(".maps");                                                                        \
	struct record_type *kt_pin_##name __attribute__((unused));                                           \
	static __always_inline struct record_type *name##_at(__u32 number)                                   \
	{                                                                                                    \
		struct name##_slot *slot = bpf_map_lookup_elem(&name, &number);                              \
                                                                                                             \
		return slot ? &slot->record : 0;                                                             \
	}                                                                                                    \
	static __always_inline __u32 name##_find(const struct key_type *key)                                 \
	{                                                                                                    \
		__u32 *number = bpf_map_lookup_elem(&name##_keys, key);                                      \
                                                                                                             \
		return number ? *number : 0;                                                                 \
	}                                                                                                    \
	static __always_inline __u32 name##_make(const struct key_type *key)                                 \
	{                                                                                                    \
		struct record_type *given = name##_at(0), *made = 0;                                         \
		__u32 number = 0, old;                                                                       \
		__u64 taken, again, attempts = KT_ATTEMPTS;                                                  \
		__u8 one = 1;                                                                                \
                                                                                                             \
		if (!given)                                                                                  \
			return 0;                                                                            \
		/* without a branch, and with one way back: 6.1 refuses what clang makes of two */           \
		do {                                                                                         \
			__u64 ahead = given->time - number, sign = ahead >> 63;                              \
                                                                                                             \
			asm volatile("" : "+r"(sign));                                                       \
			number += (ahead & (sign - 1)) + 1;                                                  \
			made = name##_at(number);                                                            \
			if (!made)                                                                           \
				return 0;                                                                    \
			/* refused; or it was given before, and its claim is gone */                         \
			taken =                                                                              \
			    (__u64)bpf_map_update_elem(&name##_claims, &number, &one, BPF_NOEXIST) >> 63;    \
			taken |= ((__u64)number - 1 - given->time) >> 63;                                    \
			attempts--;                                                                          \
			again = taken * attempts;                                                            \
			asm volatile("" : "+r"(again));                                                      \
		} while (again);                                                                             \
		if (taken)                                                                                   \
			return 0;                                                                            \
		old = number - KT_CLAIMS;                                                                    \
		bpf_map_delete_elem(&name##_claims, &old);                                                   \
		__builtin_memcpy((void *)made + sizeof(kt_boot_ns), key, sizeof(*key));                      \
		if (bpf_map_update_elem(&name##_keys, key, &number, BPF_NOEXIST))                            \
			number = name##_find(key);                                                           \
		__sync_fetch_and_add(&given->time, 1);                                                       \
		return number;                                                                               \
	}                                                                                                    \
	_Static_assert(sizeof(struct record_type) % 8 == 0, "a slot is a record without gaps")

/*
 * Programs give out slots without an atomic that tells what it found (5.12 has them first): who puts the next
 * number into NAME_claims first has it. All numbers up to the highest claimed one are claimed, and those that
 * lie KT_CLAIMS behind are counted as given: their claims are not needed any more.
 */
#define KT_CLAIMS   1024 /* more than programs can be making slots at one time */
#define KT_ATTEMPTS 64

/* Losses: counted where they happen, never deduced. User space names them by this enum (read from BTF). */
enum kt_loss {
	kt_loss_ring_full,     /* a record did not fit into its ring */
	kt_loss_map_full,      /* a start could not be remembered: its end will not be seen */
	kt_loss_missed_return, /* a start whose end never came (the kernel missed the return probe) */
	kt_loss_kinds,
};
/* User space finds the names through this pointer's type. */
enum kt_loss *kt_pin_loss __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, kt_loss_kinds);
	__type(key, __u32);
	__type(value, __u64);
} losses SEC(".maps");

static __always_inline void kt_lost(__u32 kind)
{
	__u64 *count = bpf_map_lookup_elem(&losses, &kind);

	if (count)
		*count += 1;
}

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

/*
 * Hand a record over without waking the reader for each: a timer drains. Once per crossing of half the ring
 * the reader is woken all the same, so that a burst does not have to wait for the timer.
 */
static __always_inline __u64 kt_wake(void *ring, __u64 size)
{
	__u64 half = bpf_ringbuf_query(ring, BPF_RB_RING_SIZE) / 2;
	__u64 filled = bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA);

	return filled >= half && filled < half + 8 * (size + 8) ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

static __always_inline void kt_output(void *ring, void *record, __u64 size)
{
	if (bpf_ringbuf_output(ring, record, size, kt_wake(ring, size)))
		kt_lost(kt_loss_ring_full);
}

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
 * The path from a dentry up to its superblock's root, leaf first, names separated by NUL. For a file of a
 * container's root this is the path inside the container: the overlay's own root ends the walk, and volumes
 * are other superblocks.
 */
#define KT_PATH_BYTES	   4096 /* PATH_MAX: where the walk stops */
#define KT_NAME_BYTES	   256	/* NAME_MAX and its NUL: what the last name may reach past that */
#define KT_PATH_COMPONENTS 128

enum kt_path_end {
	kt_path_whole,	 /* the root was reached */
	kt_path_cut,	 /* too deep or too long: the components nearest to the root are missing */
	kt_path_unnamed, /* a name could not be read */
};

struct kt_path_walk {
	__u16 bytes;
	__u16 end;
};

/* buffer: KT_PATH_BYTES + KT_NAME_BYTES at least */
static __always_inline struct kt_path_walk kt_path(char *buffer, struct dentry *dentry)
{
	struct kt_path_walk walk = {.bytes = 0, .end = kt_path_cut};
	__u64 used = 0;

	for (int depth = 0; depth < KT_PATH_COMPONENTS; depth++) {
		struct dentry *parent = BPF_CORE_READ(dentry, d_parent);
		const unsigned char *name = BPF_CORE_READ(dentry, d_name.name);
		__u64 at = used;
		long read;

		if (parent == dentry) {
			walk.end = kt_path_whole;
			break;
		}
		if (at >= KT_PATH_BYTES)
			break;
		/* clang drops the mask as redundant, and the verifier loses the bound (docs/kernel.md) */
		asm volatile("" : "+r"(at));
		at &= KT_PATH_BYTES - 1;
		read = bpf_probe_read_kernel_str(buffer + at, KT_NAME_BYTES, name);
		if (read <= 0) {
			walk.end = kt_path_unnamed;
			break;
		}
		used += read;
		dentry = parent;
	}
	walk.bytes = used;
	return walk;
}

#endif
