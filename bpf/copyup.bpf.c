// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * copyup: one event for each object that overlayfs copies up.
 *
 * Hook: entry and return of ovl_copy_up_one(parent, dentry, flags) (fs/overlayfs/copy_up.c; since 4.0, this
 * signature since 4.10). Its callers fire when nothing is copied (ovl_copy_up_flags) and hide the parents;
 * ovl_copy_up_data turned its meaning round in 5.x (regular files before, all but regular files after);
 * ovl_copy_up_file is inlined on 5.10. It runs once for the file and once for each parent directory on the
 * way, outermost first.
 *
 * Bytes: what do_splice_direct returns inside this thread's copy-up (holes are skipped, ENOSPC leaves a part)
 * and what the clone call returns (reflink: nothing is spliced). The bytes of a thread outside a copy-up are
 * not looked at.
 */
#include "cgroup_births.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Only copy-ups whose lower file has at least this size; set before load. */
const volatile __u64 min_size_bytes = 0;

#define COPYUP_HEADER                                                                                        \
	kt_boot_ns time; /* when ovl_copy_up_one returned */                                                 \
	kt_cgroup_id cgroup_id;                                                                              \
	kt_cgroup_id memory_cgroup_id;                                                                       \
	kt_inode inode; /* of the overlay's inode */                                                         \
	kt_bytes size;	/* of the lower file, before any truncation */                                       \
	kt_bytes copied;                                                                                     \
	kt_bytes cloned;                                                                                     \
	kt_duration_ns duration;                                                                             \
	kt_hierarchy memory_hierarchy;                                                                       \
	kt_dev device; /* s_dev of the overlay's superblock */                                               \
	__u32 pid;     /* the kernel's tgid */                                                               \
	__u32 tid;                                                                                           \
	kt_open_flags flags; /* open flags that led here; 0: chmod, chown, rename, link, ... */              \
	kt_errno error;                                                                                      \
	kt_mode mode;                                                                                        \
	__u16 path_bytes;                                                                                    \
	__u16 path_end; /* enum kt_path_end */                                                               \
	__u16 reserved;                                                                                      \
	char comm[16]

struct copyup_event {
	COPYUP_HEADER;
	char path[512 - 8 - 112];
};
/* The same event when its path does not fit. */
struct copyup_long_event {
	COPYUP_HEADER;
	char path[8192 - 8 - 112];
};
KT_STREAM(copyup, copyup_event, 8 * 1024 * 1024);
KT_STREAM(copyup_long, copyup_long_event, 1024 * 1024);

struct copyup_start {
	struct dentry *dentry;
	kt_boot_ns time;
	kt_bytes size;
	kt_bytes copied;
	kt_bytes cloned;
	struct kt_cgroups who;
	kt_open_flags flags;
};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384); /* threads inside a copy-up at one time */
	__type(key, __u64);	    /* pid_tgid */
	__type(value, struct copyup_start);
} starts SEC(".maps");

/* One program of a kind runs on a CPU at a time, so one scratch event per CPU suffices: 8 KiB do not fit the
 * stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct copyup_long_event);
} scratch SEC(".maps");

/* Zeros to wipe a path with in one call, so that no record carries the tail of another's path. */
static const char zeros[KT_PATH_BYTES + KT_NAME_BYTES];

static __always_inline int copyup_enter(struct dentry *dentry, int flags)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct copyup_start start = {};

	kt_current_cgroups(&start.who);
	if (kt_excluded(&start.who))
		return 0;
	start.size = BPF_CORE_READ(dentry, d_inode, i_size);
	if (start.size < min_size_bytes)
		return 0;
	start.dentry = dentry;
	start.flags = flags;
	start.time = bpf_ktime_get_boot_ns();
	if (bpf_map_lookup_elem(&starts, &thread))
		kt_lost(kt_loss_missed_return);
	if (bpf_map_update_elem(&starts, &thread, &start, BPF_ANY))
		kt_lost(kt_loss_map_full);
	return 0;
}

static __always_inline int copyup_moved(long bytes, bool cloned)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct copyup_start *start = bpf_map_lookup_elem(&starts, &thread);

	if (!start || bytes <= 0)
		return 0;
	if (cloned)
		start->cloned += bytes;
	else
		start->copied += bytes;
	return 0;
}

/* ovl_copy_up_start returns 1 to the loser of two threads: the other has copied the object up already. */
static __always_inline int copyup_begun(int result)
{
	__u64 thread = bpf_get_current_pid_tgid();

	if (result > 0)
		bpf_map_delete_elem(&starts, &thread);
	return 0;
}

static __always_inline int copyup_return(int result)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct copyup_start *start = bpf_map_lookup_elem(&starts, &thread);
	struct copyup_long_event *event;
	struct kt_path_walk walk;
	struct dentry *dentry;
	struct inode *inode;
	__u32 zero = 0;

	if (!start)
		return 0;
	event = bpf_map_lookup_elem(&scratch, &zero);
	if (!event)
		return 0;
	dentry = start->dentry;
	inode = BPF_CORE_READ(dentry, d_inode);
	event->time = bpf_ktime_get_boot_ns();
	event->duration = event->time - start->time;
	event->cgroup_id = start->who.id;
	event->memory_cgroup_id = start->who.memory_id;
	event->memory_hierarchy = start->who.memory_hierarchy;
	event->inode = kt_inode_number(inode);
	event->mode = BPF_CORE_READ(inode, i_mode);
	event->size = start->size;
	event->copied = start->copied;
	event->cloned = start->cloned;
	event->device = BPF_CORE_READ(dentry, d_sb, s_dev);
	event->pid = thread >> 32;
	event->tid = thread;
	event->flags = start->flags;
	event->error = result;
	event->reserved = 0;
	bpf_map_delete_elem(&starts, &thread);
	__builtin_memset(event->comm, 0, sizeof(event->comm));
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	bpf_probe_read_kernel(event->path, sizeof(zeros), zeros);
	walk = kt_path(event->path, dentry);
	event->path_bytes = walk.bytes;
	event->path_end = walk.end;
	if (walk.bytes <= sizeof(((struct copyup_event *)0)->path))
		kt_output(&copyup, event, sizeof(struct copyup_event));
	else
		kt_output(&copyup_long, event, sizeof(struct copyup_long_event));
	return 0;
}

#ifndef KT_NO_HOOKS

/* fentry and fexit: cheapest; need BTF of the module (5.11) and, on arm64, direct calls (6.4). */
SEC("fentry/ovl_copy_up_one")
int BPF_PROG(enter__fentry, struct dentry *parent, struct dentry *dentry, int flags)
{
	return copyup_enter(dentry, flags);
}

SEC("fexit/ovl_copy_up_one")
int BPF_PROG(return__fentry, struct dentry *parent, struct dentry *dentry, int flags, int result)
{
	return copyup_return(result);
}

SEC("fexit/ovl_copy_up_start")
int BPF_PROG(begun__fentry, struct dentry *dentry, int flags, int result)
{
	return copyup_begun(result);
}

SEC("fexit/do_splice_direct")
int BPF_PROG(spliced__fentry, void *in, void *ppos, void *out, void *opos, __u64 length, __u32 flags,
	     long bytes)
{
	return copyup_moved(bytes, false);
}

/* What overlayfs clones by: do_clone_file_range until 6.7, vfs_clone_file_range (which wrapped it) from 6.8
 * on. */
SEC("fexit/do_clone_file_range")
int BPF_PROG(cloned__fentry, void *in, long long pos_in, void *out, long long pos_out, long long length,
	     __u32 flags, long long bytes)
{
	return copyup_moved(bytes, true);
}

SEC("fexit/vfs_clone_file_range")
int BPF_PROG(cloned__fentry_vfs, void *in, long long pos_in, void *out, long long pos_out, long long length,
	     __u32 flags, long long bytes)
{
	return copyup_moved(bytes, true);
}

SEC("kprobe/ovl_copy_up_one")
int BPF_KPROBE(enter__kprobe, struct dentry *parent, struct dentry *dentry, int flags)
{
	return copyup_enter(dentry, flags);
}

SEC("kretprobe/ovl_copy_up_one")
int BPF_KRETPROBE(return__kprobe, int result)
{
	return copyup_return(result);
}

SEC("kretprobe/ovl_copy_up_start")
int BPF_KRETPROBE(begun__kprobe, int result)
{
	return copyup_begun(result);
}

SEC("kretprobe/do_splice_direct")
int BPF_KRETPROBE(spliced__kprobe, long bytes)
{
	return copyup_moved(bytes, false);
}

SEC("kretprobe/do_clone_file_range")
int BPF_KRETPROBE(cloned__kprobe, long bytes)
{
	return copyup_moved(bytes, true);
}

SEC("kretprobe/vfs_clone_file_range")
int BPF_KRETPROBE(cloned__kprobe_vfs, long bytes)
{
	return copyup_moved(bytes, true);
}

#endif
