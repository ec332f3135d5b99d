/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Counting an operation that has ended. Where it lands is told by a mount, where one is at hand (opens,
 * stats, readings of directories), else by the file system: what changes names is given a directory alone.
 * Under both, files of the node and of file systems that several volumes share (all but overlays) are told
 * apart by a place: a directory on the way up (place.bpf.h).
 */
#ifndef KT_FILES_COUNT_BPF_H
#define KT_FILES_COUNT_BPF_H

#include "files_room.bpf.h"
#include "place.bpf.h"
#include "who.bpf.h"

/*
 * What the last operations of this CPU came to, in each program's own room: by their mount or file system,
 * and by their directory where that has to be asked for (`deep`). An address is that of the same object where
 * the number and the device are the same.
 */
struct files_recent {
	struct files_key key;
	__u64 object; /* addresses: of the mount, file system or directory */
	__u64 mnt;    /* of the mount that a directory was reached by */
	__u64 number;
	__u64 what; /* operation and errno */
	__u32 slot; /* of the counters; 0: the key has none */
	__u32 deep;
};
/* In a counter's number: it is the rest's. */
#define FILES_REST   (1u << 31)
#define FILES_RECENT 32
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FILES_COUNTING *FILES_RECENT);
	__type(key, __u32);
	__type(value, struct files_recent);
} recents SEC(".maps");
/* Of backups. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, FILES_COUNTING *FILES_RECENT);
	__type(key, __u32);
	__type(value, struct files_recent);
} recents_backed_up SEC(".maps");

static __always_inline struct files_recent *files_recent_at(__u32 index)
{
	if (index < FILES_COUNTING * FILES_RECENT)
		return bpf_map_lookup_elem(&recents, &index);
	index -= FILES_COUNTING * FILES_RECENT;
	return bpf_map_lookup_elem(&recents_backed_up, &index);
}

/* What an operation was, and who asked. */
struct files_call {
	struct kt_cgroups who;
	__u32 operation;
	kt_errno error;
	__u32 pid;
	__u32 room;
};

/* A pointer that the verifier knows the type of, as a number. */
static __always_inline __u64 files_number(const void *pointer)
{
	__u64 number = 0;

	bpf_probe_read_kernel(&number, sizeof(number), &pointer);
	return number;
}

/* What programs try and go by, such as mkdir -p and Go's os.RemoveAll, which unlinks directories. */
static __always_inline bool files_is_expected(kt_errno error)
{
	return error == -ENOENT || error == -EEXIST || error == -ENOTDIR || error == -EISDIR ||
	       error == -ENOTEMPTY || error == -EXDEV || error == -EOPNOTSUPP || error == -ELOOP ||
	       error == -EINTR || error == -ENXIO;
}

/* -EAGAIN is tried again by the kernel itself (io_uring); -512 to -516 restart the call, nobody sees them. */
static __always_inline bool files_is_over(int result)
{
	return result != -EAGAIN && !(result <= -ERESTARTSYS && result >= -ERESTARTSYS - 4);
}

static __always_inline struct files_counter *files_counter_at(__u32 number)
{
	return number & FILES_REST ? files_rest_at(number & ~FILES_REST) : files_at(number);
}

/* The number of the counter of a remembered key, or of its cgroup's rest; 0: no room. */
kt_function __u32 files_slot(__u32 index)
{
	struct files_recent *recent = files_recent_at(index);
	struct files_counter *counter;
	struct files_key rest = {};
	__u32 number;

	if (!recent)
		return 0;
	number = files_find(&recent->key);
	if (!number)
		number = files_make(&recent->key);
	recent->slot = number;
	if (!number) {
		rest.cgroup_id = recent->key.cgroup_id;
		rest.memory_cgroup_id = recent->key.memory_cgroup_id;
		rest.memory_hierarchy = recent->key.memory_hierarchy;
		rest.operation = recent->key.operation;
		rest.rest = 1;
		number = files_rest_find(&rest);
		if (!number)
			number = files_rest_make(&rest);
		if (!number)
			return 0;
		number |= FILES_REST;
	}
	counter = files_counter_at(number);
	/* it is to be seen as soon as it says whose it is */
	if (counter && !counter->time) {
		bpf_get_current_comm(counter->comm, sizeof(counter->comm));
		counter->time = 1;
	}
	return number;
}

/* By what is remembered at index. */
static __always_inline int files_add(const struct files_recent *recent, __u32 index, kt_errno error)
{
	__u32 number = recent->slot;
	struct files_counter *entry = number ? files_at(number) : 0;

	if (!entry) {
		number = files_slot(index);
		entry = number ? files_counter_at(number) : 0;
		if (!entry) {
			kt_lost(kt_loss_map_full);
			return 0;
		}
	}
	if (!error)
		__sync_fetch_and_add(&entry->count, 1);
	else if (files_is_expected(error))
		__sync_fetch_and_add(&entry->expected, 1);
	else
		__sync_fetch_and_add(&entry->errors, 1);
	return 0;
}

static __always_inline __u64 files_what(const struct files_call *call)
{
	return call->operation | (__u64)(__u32)call->error << 32;
}

static __always_inline bool files_is(const struct files_recent *recent, const struct files_call *call,
				     __u64 number)
{
	const struct files_key *key = &recent->key;

	if (recent->number != number || recent->what != files_what(call) || key->cgroup_id != call->who.id)
		return false;
	if (memory_on_v1 && key->memory_cgroup_id != call->who.memory_id)
		return false;
	return !by_process || key->pid == call->pid;
}

static __always_inline void files_remember(struct files_recent *recent, const struct files_call *call,
					   __u64 number)
{
	struct files_key *key = &recent->key;

	recent->number = number;
	recent->what = files_what(call);
	recent->mnt = 0;
	recent->slot = 0;
	recent->deep = 0;
	key->cgroup_id = call->who.id;
	key->memory_cgroup_id = call->who.memory_id;
	key->memory_hierarchy = call->who.memory_hierarchy;
	key->mount = 0;
	key->place = 0;
	key->device = 0;
	key->pid = call->pid;
	key->operation = call->operation;
	key->error = call->error;
	key->rest = 0;
}

static __always_inline bool files_begins(struct files_call *call, __u32 operation, kt_errno error, __u32 room)
{
	call->operation = operation;
	call->error = error;
	call->room = room;
	kt_current_cgroups(&call->who);
	call->pid = by_process ? bpf_get_current_pid_tgid() >> 32 : 0;
	return !kt_excluded(&call->who);
}

static __always_inline struct mnt_namespace *files_namespace(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();

	return BPF_CORE_READ(task, nsproxy, mnt_ns);
}

/* The number of a file system, as a mount of all of it that the thread's namespace has. */
static __always_inline kt_mount files_system_number(const struct super_block *sb, kt_dev device,
						    const struct mnt_namespace *namespace)
{
	kt_mount number = (kt_file_number(BPF_CORE_READ(sb, s_root, d_inode)) * KT_MIX + device) * KT_MIX;

	return number ^ ~BPF_CORE_READ(namespace, ns.inum) ^ kt_namespace_number(namespace);
}

kt_function int files_tell_system(kt_mount number, kt_dev device, __u64 super_block, __u32 room)
{
	const struct super_block *sb = (void *)super_block;
	struct kt_scratch *scratch = kt_scratch_of(room);
	struct kt_mount_event *event;
	struct mount *mount;
	__u32 walk;

	if (!scratch || !kt_tell(1, number, device))
		return 0;
	event = &scratch->mount;
	__builtin_memset(event, 0, __builtin_offsetof(struct kt_mount_event, root));
	event->time = bpf_ktime_get_boot_ns();
	event->mount = number;
	event->device = device;
	BPF_CORE_READ_INTO(&event->namespace, files_namespace(), ns.inum);
	event->in_node = event->namespace == node_mount_namespace;
	event->whole = 1;
	event->magic = BPF_CORE_READ(sb, s_magic);
	bpf_probe_read_kernel_str(event->type, sizeof(event->type), BPF_CORE_READ(sb, s_type, name));
	mount = kt_a_mount_of(sb);
	if (mount) {
		bpf_probe_read_kernel_str(event->source, sizeof(event->source),
					  BPF_CORE_READ(mount, mnt_devname));
		walk = kt_walk((__u64)BPF_CORE_READ(mount, mnt_mountpoint), room);
		event->point_bytes = walk;
		event->point_end = walk >> 16;
		bpf_probe_read_kernel(event->point, sizeof(event->point), scratch->path);
	}
	kt_output_mount(event);
	return 0;
}

/* Which mount a remembered key is of; and whether its files are told apart by directories. */
kt_function int files_learn_mount(__u32 index, __u32 room, __u64 vfsmount)
{
	struct files_recent *recent = files_recent_at(index);
	struct vfsmount *mnt = (void *)vfsmount;
	struct mount *mount = kt_mount_of(mnt);
	struct mnt_namespace *namespace;
	bool in_node;
	__u64 root = 0;

	if (!recent)
		return 0;
	recent->key.device = BPF_CORE_READ(mnt, mnt_sb, s_dev);
	namespace = BPF_CORE_READ(mount, mnt_ns);
	in_node = kt_in_node(mount, namespace);
	if (!kt_mounts_have_numbers())
		root = kt_file_number(BPF_CORE_READ(mnt, mnt_root, d_inode));
	recent->key.mount = kt_mount_number(mount, namespace, recent->key.device, root, in_node);
	recent->deep = in_node || by_directory;
	kt_tell_mount(recent->key.mount, recent->key.device, vfsmount, room);
	return 0;
}

/* And which file system, where no mount is at hand. */
kt_function int files_learn_system(__u32 index, __u32 room, __u64 super_block)
{
	struct files_recent *recent = files_recent_at(index);
	const struct super_block *sb = (void *)super_block;

	if (!recent)
		return 0;
	recent->key.device = BPF_CORE_READ(sb, s_dev);
	recent->key.mount = files_system_number(sb, recent->key.device, files_namespace());
	files_tell_system(recent->key.mount, recent->key.device, super_block, room);
	return 0;
}

/* And which place. */
kt_function int files_learn_place(__u32 index, __u32 room, __u64 directory)
{
	struct files_recent *recent = files_recent_at(index);
	struct dentry *dentry = (void *)directory;

	if (!recent)
		return 0;
	if (by_directory) {
		recent->key.place = kt_file_number(BPF_CORE_READ(dentry, d_inode));
		kt_tell_place(recent->key.place, recent->key.device, directory, room);
		return 0;
	}
	recent->key.place = kt_place_in(dentry, recent->key.device, room);
	/* until the node's directories are told, nothing is concluded for good */
	if (!kt_anchored())
		recent->number = 0;
	return 0;
}

/* What is read of a pointer: as C reads it where the verifier knows its type, else by probing memory. */
#define FILES_READ(typed, from, member) ((typed) ? (from)->member : BPF_CORE_READ(from, member))

static __always_inline __u64 files_inode_number(const struct inode *inode, const bool typed)
{
	if (typed)
		return ((const struct inode___u64 *)inode)->i_ino;
	return kt_inode_number(inode);
}

static __always_inline __u64 files_file_number(const struct inode *inode, const bool typed)
{
	return files_inode_number(inode, typed) ^ (__u64)FILES_READ(typed, inode, i_generation) << 32;
}

static __always_inline __u32 files_index(const struct files_call *call, __u64 number)
{
	number ^= call->who.id;
	return call->room * FILES_RECENT + ((number ^ number >> 32) & (FILES_RECENT - 1));
}

/* In a directory whose place has to be asked for; by a mount, or without one (0). */
static __always_inline int files_in(struct files_call *call, struct dentry *directory, struct inode *inode,
				    struct vfsmount *mnt, struct super_block *sb, const bool typed)
{
	__u64 number = files_file_number(inode, typed);
	__u32 index = files_index(call, number);
	struct files_recent *recent = files_recent_at(index);

	if (!recent)
		return 0;
	if (by_roots)
		number += roots_added * KT_MIX;
	if (recent->object != (__u64)inode || recent->mnt != (__u64)mnt || !files_is(recent, call, number)) {
		files_remember(recent, call, number);
		recent->object = (__u64)inode;
		if (mnt) {
			files_learn_mount(index, call->room, files_number(mnt));
			recent->mnt = (__u64)mnt;
		} else {
			files_learn_system(index, call->room, files_number(sb));
		}
		files_learn_place(index, call->room, files_number(directory));
	}
	return files_add(recent, index, call->error);
}

/* Through a mount: `dentry` is the file's, or (`itself`) that of the directory that is read. */
static __always_inline int files_through(__u32 operation, int result, struct vfsmount *mnt,
					 struct dentry *dentry, bool itself, __u32 room, const bool typed)
{
	struct files_call call;
	struct files_recent *recent;
	struct dentry *root, *directory;
	struct inode *inode;
	__u64 number;
	__u32 index;

	if (!files_begins(&call, operation, result, room))
		return 0;
	root = FILES_READ(typed, mnt, mnt_root);
	inode = FILES_READ(typed, root, d_inode);
	number = files_file_number(inode, typed);
	index = files_index(&call, number);
	recent = files_recent_at(index);
	if (!recent)
		return 0;
	if (recent->object != (__u64)mnt || !files_is(recent, &call, number)) {
		files_remember(recent, &call, number);
		recent->object = (__u64)mnt;
		files_learn_mount(index, room, files_number(mnt));
	}
	if (!recent->deep)
		return files_add(recent, index, call.error);
	directory = itself ? dentry : FILES_READ(typed, dentry, d_parent);
	inode = FILES_READ(typed, directory, d_inode);
	return files_in(&call, directory, inode, mnt, 0, typed);
}

/* In a directory of a file system, given by its inode; `directory` is its dentry. */
static __always_inline int files_below(__u32 operation, int result, struct inode *inode,
				       struct dentry *directory, __u32 room, const bool typed)
{
	struct files_call call;
	struct files_recent *recent;
	struct super_block *sb;
	kt_dev device;
	__u32 index;

	if (!files_begins(&call, operation, result, room))
		return 0;
	sb = FILES_READ(typed, inode, i_sb);
	if (by_directory || FILES_READ(typed, sb, s_magic) != OVERLAYFS_SUPER_MAGIC)
		return files_in(&call, directory, inode, 0, sb, typed);
	device = FILES_READ(typed, sb, s_dev);
	index = files_index(&call, device);
	recent = files_recent_at(index);
	if (!recent)
		return 0;
	if (recent->object != (__u64)sb || !files_is(recent, &call, device)) {
		files_remember(recent, &call, device);
		recent->object = (__u64)sb;
		files_learn_system(index, room, files_number(sb));
	}
	return files_add(recent, index, call.error);
}

/* Of no file: the kernel does not say where it was not. */
static __always_inline int files_nowhere(__u32 operation, int result, __u32 room)
{
	struct files_call call;
	struct files_recent *recent;
	__u32 index;

	if (!files_begins(&call, operation, result, room))
		return 0;
	index = files_index(&call, operation);
	recent = files_recent_at(index);
	if (!recent)
		return 0;
	if (recent->object || !files_is(recent, &call, 0)) {
		files_remember(recent, &call, 0);
		recent->object = 0;
	}
	return files_add(recent, index, call.error);
}

#endif
