/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where an operation lands, which is not decided here. Each mount is told once, by a stream, with its root in
 * its file system: a volume's path, as containers see volumes through bind mounts of their own. Processes of
 * the node reach everything through one mount: for files behind a mount of the node's namespace the key also
 * holds the place, a directory on the way up from the file, which user space picks by the anchors (the
 * kubelet's pods, /var/log/pods, containerd's root: so and so many levels below each). A directory is walked
 * up from once; what it came to is remembered by inode. What containers do through a mount of their
 * own never asks that.
 */
#ifndef KT_PLACE_BPF_H
#define KT_PLACE_BPF_H

#include "drift.bpf.h"
#include "room.bpf.h"
#include "stream.bpf.h"

const volatile __u32 node_mount_namespace = 0; /* inode number of PID 1's mount namespace */

struct kt_directory {
	kt_inode inode;
	kt_dev device;
	__u32 generation; /* inode numbers are given again */
};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 128);
	__type(key,
	       struct kt_directory); /* generation 0: user space cannot ask for it; all 0: these are all */
	__type(value, __u32);	     /* levels below it that a place is */
} anchors SEC(".maps");

struct kt_known_place {
	kt_place place;
	__u64 roots; /* roots_added, when it was found */
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct kt_directory);
	__type(value, struct kt_known_place);
} directories SEC(".maps");

/*
 * With by_roots: what containers have mounted, by the root that it has in its file system. Such a directory
 * is a place too, for operations that are told by a directory alone, without the mount they came through.
 */
const volatile bool by_roots = false;
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, 1); /* BPF_F_NO_PREALLOC */
	__type(key, struct kt_directory);
	__type(value, __u8);
} roots SEC(".maps");
/* How often one was added: what was concluded before may be another place now. */
__u64 roots_added = 0;

struct kt_told_key {
	__u64 number;
	__u32 device;
	__u32 kind;
};
/* Mounts and places that user space was told; forgetting one tells it again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct kt_told_key);
	__type(value, __u8);
} told SEC(".maps");

static __always_inline struct mount *kt_mount_of(struct vfsmount *mnt)
{
	return (void *)mnt - bpf_core_field_offset(struct mount, mnt);
}

/* The inode number of a mount's namespace; 0 where it is in none (an error pointer, or gone). */
static __always_inline __u32 kt_mount_namespace(const struct mount *mount)
{
	struct mnt_namespace *namespace = BPF_CORE_READ(mount, mnt_ns);
	__u32 number = 0;

	if (namespace)
		BPF_CORE_READ_INTO(&number, namespace, ns.inum);
	return number;
}

/* Address of the namespace of node_mount_namespace: set by the first operation through a mount of it. */
__u64 node_namespace = 0;

/* Whether a mount's namespace is the node's own: by its address, once that is known. */
static __always_inline bool kt_in_node(const struct mount *mount, const struct mnt_namespace *namespace)
{
	if (!node_mount_namespace)
		return false;
	if (node_namespace)
		return (__u64) namespace == node_namespace;
	if (kt_mount_namespace(mount) != node_mount_namespace)
		return false;
	node_namespace = (__u64) namespace;
	return true;
}

/* Tell once; false when it was told already. */
static __always_inline bool kt_tell(__u32 kind, __u64 number, __u32 device)
{
	struct kt_told_key key = {.number = number, .device = device, .kind = kind};
	__u8 one = 1;

	if (bpf_map_lookup_elem(&told, &key))
		return false;
	bpf_map_update_elem(&told, &key, &one, BPF_ANY);
	return true;
}

/* Walk up from a dentry into the scratch's path: struct kt_path_walk, its end in the upper half. */
kt_function __u32 kt_walk(__u64 dentry, __u32 room)
{
	struct kt_scratch *scratch = kt_scratch_of(room);
	struct kt_path_walk walk;

	if (!scratch)
		return (__u32)kt_path_unnamed << 16;
	bpf_probe_read_kernel(scratch->path, sizeof(zeros), zeros);
	walk = kt_path(scratch->path, (void *)dentry);
	return walk.bytes | (__u32)walk.end << 16;
}

kt_function int kt_tell_place(kt_place number, kt_dev device, __u64 dentry, __u32 room)
{
	struct kt_scratch *scratch = kt_scratch_of(room);
	struct kt_place_event *event;
	__u32 walk;

	if (!scratch || !kt_tell(0, number, device))
		return 0;
	event = &scratch->place;
	event->time = bpf_ktime_get_boot_ns();
	event->place = number;
	event->device = device;
	walk = kt_walk(dentry, room);
	event->path_bytes = walk;
	event->path_end = walk >> 16;
	bpf_probe_read_kernel(event->path, sizeof(event->path), scratch->path);
	kt_output_place(event);
	return 0;
}

static __always_inline void kt_directory_of(struct kt_directory *key, struct dentry *dentry, kt_dev device)
{
	struct inode *inode = BPF_CORE_READ(dentry, d_inode);

	key->inode = kt_inode_number(inode);
	key->generation = BPF_CORE_READ(inode, i_generation);
	key->device = device;
}

static __always_inline void kt_add_root(const struct vfsmount *mnt, kt_dev device)
{
	struct dentry *root = BPF_CORE_READ(mnt, mnt_root);
	struct kt_directory key = {};
	__u8 one = 1;

	/* what is the root of all has no place, and a file is in none */
	if (root == BPF_CORE_READ(mnt, mnt_sb, s_root) ||
	    (BPF_CORE_READ(root, d_inode, i_mode) & S_IFMT) != S_IFDIR)
		return;
	kt_directory_of(&key, root, device);
	if (!bpf_map_update_elem(&roots, &key, &one, BPF_NOEXIST))
		roots_added += 1;
}

kt_function int kt_tell_mount(kt_mount number, kt_dev device, __u64 vfsmount, __u32 room)
{
	struct kt_scratch *scratch = kt_scratch_of(room);
	struct vfsmount *mnt = (void *)vfsmount;
	struct mount *mount = kt_mount_of(mnt);
	struct kt_mount_event *event;
	__u32 walk;

	if (!scratch || !kt_tell(1, number, device))
		return 0;
	/* the node's own mounts are not of a volume */
	if (by_roots && kt_mount_namespace(mount) != node_mount_namespace)
		kt_add_root(mnt, device);
	event = &scratch->mount;
	__builtin_memset(event, 0, __builtin_offsetof(struct kt_mount_event, root));
	event->time = bpf_ktime_get_boot_ns();
	event->mount = number;
	event->device = device;
	event->mount_id = BPF_CORE_READ(mount, mnt_id);
	event->namespace = kt_mount_namespace(mount);
	event->in_node = event->namespace == node_mount_namespace;
	event->magic = BPF_CORE_READ(mnt, mnt_sb, s_magic);
	bpf_probe_read_kernel_str(event->type, sizeof(event->type), BPF_CORE_READ(mnt, mnt_sb, s_type, name));
	bpf_probe_read_kernel_str(event->source, sizeof(event->source), BPF_CORE_READ(mount, mnt_devname));
	walk = kt_walk((__u64)BPF_CORE_READ(mnt, mnt_root), room);
	event->root_bytes = walk;
	event->root_end = walk >> 16;
	bpf_probe_read_kernel(event->root, sizeof(event->root), scratch->path);
	walk = kt_walk((__u64)BPF_CORE_READ(mount, mnt_mountpoint), room);
	event->point_bytes = walk;
	event->point_end = walk >> 16;
	bpf_probe_read_kernel(event->point, sizeof(event->point), scratch->path);
	kt_output_mount(event);
	return 0;
}

/* Whether user space has said all anchors: until then nothing is concluded for good. */
static __always_inline bool kt_anchored(void)
{
	struct kt_directory none = {};

	return bpf_map_lookup_elem(&anchors, &none) != 0;
}

/* The place of a directory's files: so and so many levels below the nearest anchor above; 0 where there is
 * none. */
kt_function kt_place kt_find_place(__u64 directory, kt_dev device, __u32 room)
{
	struct dentry *at = (void *)directory;
	struct dentry *one = 0, *two = 0, *three = 0, *four = 0, *found = 0;
	struct kt_directory key = {};
	struct kt_known_place known = {.roots = roots_added};

	kt_directory_of(&key, at, device);
	for (int depth = 0; depth < 48; depth++) {
		struct kt_directory anchor = {.device = device};
		struct dentry *parent;
		__u32 *levels;

		anchor.inode = kt_inode_number(BPF_CORE_READ(at, d_inode));
		levels = bpf_map_lookup_elem(&anchors, &anchor);
		if (levels) {
			found = at;
			if (*levels >= 1 && one)
				found = one;
			if (*levels >= 2 && two)
				found = two;
			if (*levels >= 3 && three)
				found = three;
			if (*levels >= 4 && four)
				found = four;
			break;
		}
		parent = BPF_CORE_READ(at, d_parent);
		if (parent == at)
			break;
		if (by_roots) {
			kt_directory_of(&anchor, at, device);
			if (bpf_map_lookup_elem(&roots, &anchor)) {
				found = at;
				break;
			}
		}
		four = three;
		three = two;
		two = one;
		one = at;
		at = parent;
	}
	if (found) {
		known.place = kt_file_number(BPF_CORE_READ(found, d_inode));
		kt_tell_place(known.place, device, (__u64)found, room);
	}
	if (kt_anchored())
		bpf_map_update_elem(&directories, &key, &known, BPF_ANY);
	return known.place;
}

static __always_inline kt_place kt_place_in(struct dentry *directory, kt_dev device, __u32 room)
{
	struct kt_directory key = {};
	struct kt_known_place *known;

	kt_directory_of(&key, directory, device);
	known = bpf_map_lookup_elem(&directories, &key);
	if (known && (!by_roots || known->roots == roots_added))
		return known->place;
	return kt_find_place((__u64)directory, device, room);
}

static __always_inline kt_place kt_place_of(struct dentry *file, kt_dev device, __u32 room)
{
	return kt_place_in(BPF_CORE_READ(file, d_parent), device, room);
}

#endif
