// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * unlink: what containers remove from their root file systems. A file of the image is not removed: overlayfs
 * writes a whiteout into the writable layer instead, and the image stays as large as it is.
 *
 * Hook: ovl_do_remove(dentry, is_dir) (fs/overlayfs/dir.c; since 4.0), which unlink(2) and rmdir(2) share.
 * Not seen: what a rename replaces, and files in volumes, which are no part of the overlay.
 */
#include "tracer.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

enum unlink_kind {
	unlink_file,
	unlink_directory,
};

struct unlink_event {
	KT_WHO; /* time, cgroups, device, pid, tid, comm */
	kt_bytes size;
	enum unlink_kind kind;
	kt_errno error;
	__u16 path_bytes;
	__u16 path_end;
	__u16 layer; /* of the image that has the file, from the top, 1 the first; 0: none has it */
	__u16 reserved;
	char path[512 - 8 - KT_WHO_BYTES - 24];
};
KT_STREAM(unlinks, unlink_event, 1024 * 1024);
KT_ROOM(room, unlink_event);

struct unlink_start {
	struct dentry *dentry;
	kt_bytes size;
	__u16 mode;
	__u16 layer;
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096); /* threads that are removing something at one time */
	__type(key, __u64);	   /* pid_tgid */
	__type(value, struct unlink_start);
} starts SEC(".maps");

/* What is read before: afterwards the inode may be gone. */
static __always_inline int unlink_begin(struct dentry *dentry)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct unlink_start start = {};

	start.dentry = dentry;
	start.size = BPF_CORE_READ(dentry, d_inode, i_size);
	start.mode = BPF_CORE_READ(dentry, d_inode, i_mode);
	start.layer = kt_overlay_layer(dentry);
	if (bpf_map_update_elem(&starts, &thread, &start, BPF_ANY))
		kt_lost(kt_loss_map_full);
	return 0;
}

static __always_inline int unlink_end(int error)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct unlink_start *start = bpf_map_lookup_elem(&starts, &thread);
	struct unlink_event *event = room_cleared();
	struct kt_path_walk walk;
	struct dentry *dentry;

	if (!start || !event)
		return 0;
	dentry = start->dentry;
	if (kt_who_runs(event)) {
		event->size = start->size;
		event->kind = (start->mode & S_IFMT) == S_IFDIR ? unlink_directory : unlink_file;
		event->error = error;
		event->layer = start->layer;
		event->device = BPF_CORE_READ(dentry, d_sb, s_dev);
		walk = kt_path_of(dentry, event->path, sizeof(event->path));
		event->path_bytes = walk.bytes;
		event->path_end = walk.end;
		kt_output(&unlinks, event, sizeof(*event));
	}
	bpf_map_delete_elem(&starts, &thread);
	return 0;
}

/* Of programs GROUP__HOOK, the first of a group that the kernel takes is attached. */
SEC("fentry/ovl_do_remove")
int BPF_PROG(begin__fentry, struct dentry *dentry)
{
	return unlink_begin(dentry);
}

SEC("fexit/ovl_do_remove")
int BPF_PROG(return__fentry, struct dentry *dentry, bool is_dir, int error)
{
	return unlink_end(error);
}

SEC("kprobe/ovl_do_remove")
int BPF_KPROBE(begin__kprobe, struct dentry *dentry)
{
	return unlink_begin(dentry);
}

SEC("kretprobe/ovl_do_remove")
int BPF_KRETPROBE(return__kprobe, int error)
{
	return unlink_end(error);
}
