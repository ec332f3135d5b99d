/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Which volume a file is in, and counting that it was read. */
#ifndef KT_READS_COUNT_BPF_H
#define KT_READS_COUNT_BPF_H

#include "reads_key.bpf.h"
#include "reads_room.bpf.h"
#include "who.bpf.h"

/* include/uapi/linux/magic.h */
#define TMPFS_MAGIC	    0x01021994
#define PROC_SUPER_MAGIC    0x9fa0
#define SYSFS_MAGIC	    0x62656572
#define CGROUP2_SUPER_MAGIC 0x63677270

/* FMODE_READ of include/linux/fs.h, which bcc has */
#define READS_MAY_READ 1

/* What is read of a pointer: as C reads it where the verifier knows its type, else by probing memory. */
#define READS_READ(typed, from, member) ((typed) ? (from)->member : BPF_CORE_READ(from, member))

/* A pointer that the verifier knows the type of, as a number. */
static __always_inline __u64 reads_number(const void *pointer)
{
	__u64 number = 0;

	bpf_probe_read_kernel(&number, sizeof(number), &pointer);
	return number;
}

/* -- Which volume.
 *
 * What was concluded of a directory (on disk), or of all of a file system: then `inode` is its root's. Inode
 * and device numbers are given again, generations seldom.
 */
struct reads_object {
	kt_inode inode;
	kt_dev device;
	__u32 generation;
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct reads_object);
	__type(value, __u32); /* enum reads_kind */
} file_systems SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct reads_object);
	__type(value, __u32);
} directories SEC(".maps");

/* A name, NULs behind it: compared in words, as bytes are more ways than the verifier walks. */
#define READS_WORDS 8
union reads_name {
	char text[8 * READS_WORDS];
	__u64 words[READS_WORDS];
};

static __always_inline void reads_name_of(union reads_name *name, const struct dentry *dentry)
{
	__builtin_memset(name, 0, sizeof(*name));
	bpf_probe_read_kernel_str(name->text, sizeof(name->text), BPF_CORE_READ(dentry, d_name.name));
}

#define READS_IS(name, given)                                                                                \
	({                                                                                                   \
		const union reads_name kt_given = {.text = given};                                           \
                                                                                                             \
		!(((name)->words[0] ^ kt_given.words[0]) | ((name)->words[1] ^ kt_given.words[1]) |          \
		  ((name)->words[2] ^ kt_given.words[2]) | ((name)->words[3] ^ kt_given.words[3]));          \
	})

/* What user space works out of a name too (tracers/reads). */
static __always_inline __u64 reads_hash(const union reads_name *name)
{
	__u64 hash = 0;

	for (int at = 0; at < READS_WORDS; at++)
		hash = (hash ^ name->words[at]) * KT_MIX;
	return hash;
}

/* Whether this is a volume's directory, pods/UID/volumes/PLUGIN/NAME, and of which kind; 0: it is none, or
 * not asked for. */
kt_function __u32 reads_kind_at(__u64 directory, __u32 in_memory)
{
	struct dentry *dentry = (void *)directory;
	struct dentry *plugin = BPF_CORE_READ(dentry, d_parent);
	struct dentry *volumes = BPF_CORE_READ(plugin, d_parent);
	__u32 kind = reads_volume;
	union reads_name name;

	reads_name_of(&name, volumes);
	if (!READS_IS(&name, "volumes"))
		return reads_none;
	reads_name_of(&name, BPF_CORE_READ(volumes, d_parent, d_parent));
	if (!READS_IS(&name, "pods"))
		return reads_none;
	reads_name_of(&name, plugin);
	if (READS_IS(&name, "kubernetes.io~secret"))
		kind = reads_secret;
	else if (READS_IS(&name, "kubernetes.io~projected"))
		kind = reads_projected;
	else if (READS_IS(&name, "kubernetes.io~configmap"))
		kind = reads_configmap;
	else if (READS_IS(&name, "kubernetes.io~downward-api"))
		kind = reads_downward;
	else if (in_memory && READS_IS(&name, "kubernetes.io~csi"))
		kind = reads_driver;
	reads_name_of(&name, dentry);
	if (wanted_volume && reads_hash(&name) != wanted_volume)
		return reads_none;
	if (kind == reads_projected) {
		const union reads_name token = {.text = "kube-api-access-"};

		if (!((name.words[0] ^ token.words[0]) | (name.words[1] ^ token.words[1])))
			kind = reads_token;
	}
	return kinds >> kind & 1 ? kind : reads_none;
}

/* The next mount of a file system, by address; 0: there is none. A function of its own: what one kernel lacks
 * is not worked out in front of a loop. */
kt_function __u64 reads_next_mount(__u64 address, __u64 super_block)
{
	void *next;

	if (bpf_core_field_exists(((struct mount___chained *)0)->mnt_next_for_sb))
		return (__u64)BPF_CORE_READ((const struct mount___chained *)address, mnt_next_for_sb);
	next = BPF_CORE_READ((const struct mount___listed *)address, mnt_instance.next);
	if (!next ||
	    next == (void *)super_block + bpf_core_field_offset(struct super_block___listed, s_mounts))
		return 0;
	return (__u64)next - bpf_core_field_offset(struct mount___listed, mnt_instance);
}

/* Where the kubelet has mounted a file system as a volume, if it has: a dentry's address. A driver's mount is
 * one level below the volume's directory. */
#define READS_MOUNTS 64
kt_function __u64 reads_volume_of(__u64 super_block)
{
	const struct super_block *sb = (void *)super_block;
	struct mount *mount = kt_a_mount_of(sb);
	struct dentry *point;
	__u64 directory;
	__u32 in_memory = BPF_CORE_READ(sb, s_magic) == TMPFS_MAGIC;

	for (int at = 0; at < READS_MOUNTS && mount; at++) {
		point = BPF_CORE_READ(mount, mnt_mountpoint);
		directory = (__u64)point;
		if (reads_kind_at(directory, in_memory))
			return directory;
		directory = (__u64)BPF_CORE_READ(point, d_parent);
		if (reads_kind_at(directory, in_memory))
			return directory;
		mount = (void *)reads_next_mount((__u64)mount, super_block);
	}
	return 0;
}

kt_function __u32 reads_learn_file_system(__u64 super_block)
{
	const struct super_block *sb = (void *)super_block;
	struct inode *root = BPF_CORE_READ(sb, s_root, d_inode);
	struct reads_object key = {
	    .inode = kt_inode_number(root),
	    .device = BPF_CORE_READ(sb, s_dev),
	    .generation = BPF_CORE_READ(root, i_generation),
	};
	__u64 directory = reads_volume_of(super_block);
	__u32 kind = 0;

	if (directory)
		kind = reads_kind_at(directory, BPF_CORE_READ(sb, s_magic) == TMPFS_MAGIC);
	bpf_map_update_elem(&file_systems, &key, &kind, BPF_ANY);
	return kind;
}

/* Upwards from a directory: the uppermost that is a volume's, as what is in a volume names itself as it
 * likes. */
kt_function __u32 reads_learn_directory(__u64 directory)
{
	struct dentry *at = (void *)directory;
	struct inode *inode = BPF_CORE_READ(at, d_inode);
	struct reads_object key = {
	    .inode = kt_inode_number(inode),
	    .device = BPF_CORE_READ(inode, i_sb, s_dev),
	    .generation = BPF_CORE_READ(inode, i_generation),
	};
	__u32 kind = 0;

	for (int depth = 0; depth < 48; depth++) {
		struct dentry *parent = BPF_CORE_READ(at, d_parent);
		__u32 found;

		if (parent == at)
			break;
		found = reads_kind_at((__u64)at, 0);
		if (found)
			kind = found;
		at = parent;
	}
	bpf_map_update_elem(&directories, &key, &kind, BPF_ANY);
	return kind;
}

static __always_inline void reads_object_of(struct reads_object *key, struct inode *inode, kt_dev device,
					    const bool typed)
{
	key->device = device;
	key->inode = typed ? ((const struct inode___u64 *)inode)->i_ino : kt_inode_number(inode);
	key->generation = READS_READ(typed, inode, i_generation);
}

/* The kind of volume that a file is in; 0: none that is asked for. */
static __always_inline __u32 reads_kind_of(const struct file *file, const bool typed)
{
	struct inode *inode = READS_READ(typed, file, f_inode);
	struct super_block *sb = READS_READ(typed, inode, i_sb);
	unsigned long magic = READS_READ(typed, sb, s_magic);
	struct dentry *root, *directory;
	struct reads_object key;
	kt_dev device;
	__u32 *known, kind;

	if (magic != TMPFS_MAGIC &&
	    (!on_disk || magic == OVERLAYFS_SUPER_MAGIC || magic == PROC_SUPER_MAGIC ||
	     magic == SYSFS_MAGIC || magic == CGROUP2_SUPER_MAGIC))
		return reads_none;
	device = READS_READ(typed, sb, s_dev);
	root = READS_READ(typed, sb, s_root);
	reads_object_of(&key, READS_READ(typed, root, d_inode), device, typed);
	known = bpf_map_lookup_elem(&file_systems, &key);
	kind = known ? *known : reads_learn_file_system(reads_number(sb));
	if (kind || magic == TMPFS_MAGIC)
		return kind;
	directory = READS_READ(typed, file, f_path.dentry);
	directory = READS_READ(typed, directory, d_parent);
	reads_object_of(&key, READS_READ(typed, directory, d_inode), device, typed);
	known = bpf_map_lookup_elem(&directories, &key);
	return known ? *known : reads_learn_directory(reads_number(directory));
}

/* Whether what do_filp_open has given may be read: a directory or a device has nothing of ours, O_PATH reads
 * nothing. */
static __always_inline bool reads_is_open(const struct file *file, const bool typed)
{
	struct inode *inode;

	if ((__u64)file >= (__u64)-4095 || !(READS_READ(typed, file, f_mode) & READS_MAY_READ))
		return false;
	inode = READS_READ(typed, file, f_inode);
	return (READS_READ(typed, inode, i_mode) & S_IFMT) == S_IFREG;
}

/* -- Counting. */

/* A PID namespace, and its first process (include/linux/pid_namespace.h). */
struct pid_namespace___reaped {
	struct task_struct *child_reaper;
} __attribute__((preserve_access_index));

/* A process in its innermost PID namespace: which one, and its number there. */
static __always_inline __u64 reads_pid_of(const struct task_struct *task, __u32 *number)
{
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	struct upid *numbers = (void *)pid + bpf_core_field_offset(pid->numbers);
	__u64 level = BPF_CORE_READ(pid, level);
	struct pid_namespace *namespace = 0;

	numbers = (void *)numbers + level * bpf_core_type_size(struct upid);
	*number = BPF_CORE_READ(numbers, nr);
	namespace = BPF_CORE_READ(numbers, ns);
	return (__u64) namespace;
}

/*
 * Whether a process, or one that it descends from, was put into its PID namespace from outside, as kubectl
 * exec and exec probes do: its parent is in another one, and it is not the first there. Where containers
 * share a namespace, each container's first process is so: then nothing is said.
 */
#define READS_ANCESTORS 32
kt_function int reads_is_executed(__u64 process)
{
	struct task_struct *task = (void *)process, *parent, *reaper;
	const struct pid_namespace___reaped *reaped;
	__u32 number, other;
	__u64 namespace = reads_pid_of(task, &number);

	for (int at = 0; at < READS_ANCESTORS; at++) {
		if (number == 1)
			return 0;
		parent = BPF_CORE_READ(task, real_parent, group_leader);
		if (reads_pid_of(parent, &other) != namespace)
			break;
		task = parent;
		number = other;
	}
	reaped = (void *)namespace;
	reaper = BPF_CORE_READ(reaped, child_reaper);
	return number != 1 && BPF_CORE_READ(reaper, cgroups) == BPF_CORE_READ(task, cgroups);
}

/* By which way: whose mount it is that the file was opened through. */
static __always_inline enum reads_through reads_way(const struct file *file)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct mnt_namespace *own = BPF_CORE_READ(task, nsproxy, mnt_ns);
	struct vfsmount *mnt = BPF_CORE_READ(file, f_path.mnt);
	struct mount *mount = (void *)mnt - bpf_core_field_offset(struct mount, mnt);
	struct mnt_namespace *namespace = BPF_CORE_READ(mount, mnt_ns);
	__u32 number = 0;

	if (namespace)
		BPF_CORE_READ_INTO(&number, namespace, ns.inum);
	if (!number)
		return reads_unmounted;
	if (!node_mount_namespace)
		return reads_unknown;
	if (number == node_mount_namespace)
		return own == namespace ? reads_node : reads_node_from_elsewhere;
	if (own != namespace)
		return reads_from_elsewhere;
	return reads_is_executed((__u64)BPF_CORE_READ(task, group_leader)) ? reads_executed : reads_own;
}

/* Files that user space was told; one that is forgotten is told again. */
struct reads_told_key {
	kt_place file;
	kt_dev device;
	__u32 none;
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct reads_told_key);
	__type(value, __u8);
} told SEC(".maps");

/* Walk up from a dentry into the scratch's path: struct kt_path_walk, its end in the upper half. */
kt_function __u32 reads_walk(__u64 dentry, __u32 room)
{
	struct kt_scratch *scratch = kt_scratch_of(room);
	struct kt_path_walk walk;

	if (!scratch)
		return (__u32)kt_path_unnamed << 16;
	bpf_probe_read_kernel(scratch->path, sizeof(zeros), zeros);
	walk = kt_path(scratch->path, (void *)dentry);
	return walk.bytes | (__u32)walk.end << 16;
}

kt_function int reads_tell(__u64 address, __u32 kind, __u64 number, __u32 room)
{
	const struct file *file = (void *)address;
	struct super_block *sb = BPF_CORE_READ(file, f_inode, i_sb);
	struct reads_told_key key = {.file = number, .device = BPF_CORE_READ(sb, s_dev)};
	struct kt_scratch *scratch = kt_scratch_of(room);
	struct reads_file_event *event;
	__u64 volume;
	__u8 one = 1;
	__u32 walk;

	if (!scratch || bpf_map_lookup_elem(&told, &key))
		return 0;
	event = &scratch->file;
	__builtin_memset(event, 0, __builtin_offsetof(struct reads_file_event, path));
	event->time = bpf_ktime_get_boot_ns();
	event->file = number;
	event->volume = key.device;
	event->kind = kind;
	event->in_memory = BPF_CORE_READ(sb, s_magic) == TMPFS_MAGIC;
	walk = reads_walk((__u64)BPF_CORE_READ(file, f_path.dentry), room);
	event->path_bytes = walk;
	event->path_end = walk >> 16;
	bpf_probe_read_kernel(event->path, sizeof(event->path), scratch->path);
	volume = reads_volume_of((__u64)sb);
	/* nothing, where the volume is a directory on a disk that others share: the path has it then */
	walk = volume ? reads_walk(volume, room) : 0;
	event->point_bytes = walk;
	event->point_end = walk >> 16;
	if (volume)
		bpf_probe_read_kernel(event->point, sizeof(event->point), scratch->path);
	if (bpf_ringbuf_output(&reads_files, event, sizeof(*event), kt_wake(&reads_files, sizeof(*event))))
		kt_lost(kt_loss_ring_full);
	else
		bpf_map_update_elem(&told, &key, &one, BPF_ANY);
	return 0;
}

/* The counter of a key, or of its cgroup's rest; 0: there is no room. */
static __always_inline struct reads_counter *reads_counter_of(struct reads_key *key)
{
	__u32 number = reads_find(key);

	if (!number)
		number = reads_make(key);
	if (number)
		return reads_at(number);
	key->file = 0;
	key->volume = 0;
	key->pid = 0;
	key->through = 0;
	key->rest = 1;
	__builtin_memset(key->comm, 0, sizeof(key->comm));
	number = reads_rest_find(key);
	if (!number)
		number = reads_rest_make(key);
	return number ? reads_rest_at(number) : 0;
}

kt_function int reads_count(__u64 address, __u32 kind, __u32 what, __u64 amount, __u32 room)
{
	const struct file *file = (void *)address;
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	__u64 now = bpf_ktime_get_boot_ns();
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct task_struct *task, *leader;
	struct reads_counter *counter;
	struct reads_key key = {};
	struct kt_cgroups who;

	kt_current_cgroups(&who);
	key.cgroup_id = who.id;
	key.memory_cgroup_id = who.memory_id;
	key.memory_hierarchy = who.memory_hierarchy;
	key.file = kt_file_number(inode);
	key.volume = BPF_CORE_READ(inode, i_sb, s_dev);
	key.through = reads_way(file);
	key.pid = by_process ? pid : 0;
	/* the process's: a worker of io_uring has a name of its own */
	task = (struct task_struct *)bpf_get_current_task();
	leader = BPF_CORE_READ(task, group_leader);
	bpf_probe_read_kernel_str(key.comm, sizeof(key.comm), leader->comm);
	reads_tell(address, kind, key.file, room);
	counter = reads_counter_of(&key);
	if (!counter) {
		kt_lost(kt_loss_map_full);
		return 0;
	}
	if (!counter->first)
		counter->first = now;
	counter->last = now;
	counter->last_pid = pid;
	if (what == reads_open)
		__sync_fetch_and_add(&counter->opens, 1);
	else if (what == reads_mapped)
		__sync_fetch_and_add(&counter->maps, 1);
	else
		__sync_fetch_and_add(&counter->reads, 1);
	__sync_fetch_and_add(&counter->bytes, amount);
	/* it is to be seen as soon as it says whose it is */
	if (!counter->time)
		counter->time = 1;
	return 0;
}

#endif
