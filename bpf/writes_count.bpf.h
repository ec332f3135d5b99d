/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Counting an operation that has ended: its key, its counter, its latency, and an event where they are asked
 * for. */
#ifndef KT_WRITES_COUNT_BPF_H
#define KT_WRITES_COUNT_BPF_H

#include "writes_room.bpf.h"
#include "place.bpf.h"
#include "who.bpf.h"

struct writes_file_key {
	kt_cgroup_id cgroup_id;
	kt_cgroup_id memory_cgroup_id;
	__u64 file;
	__u64 device;
};
/* Files that were counted; one that is forgotten counts again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct writes_file_key);
	__type(value, __u8);
} files SEC(".maps");

/* Of an operation that goes on where it is not seen. */
#define writes_no_duration ((kt_duration_ns)-1)

/* What an operation was about, and how it ended. */
struct writes_operand {
	struct file *given; /* 0: dentry is known */
	struct dentry *dentry;
	struct inode *inode;
	struct vfsmount *mnt;
	__u64 file;   /* inode number and generation in one */
	__s64 result; /* bytes or a negative errno */
	kt_duration_ns duration;
	__u64 thread; /* 0: the one that runs */
	__u32 room;
	__u16 type;
};

static __always_inline struct dentry *writes_dentry(const struct writes_operand *operand)
{
	struct file *given = operand->given;

	return given ? BPF_CORE_READ(given, f_path.dentry) : operand->dentry;
}

/*
 * What the last operations of this CPU came to: to read mount, namespace and place anew for each write would
 * cost three times what counting it does. In each program's own room. A file whose address, number and
 * generation are the same is the same; one that is renamed keeps its place here.
 */
struct writes_recent {
	struct writes_key key;
	__u64 inode; /* addresses, to compare with */
	__u64 mnt;
	__u64 file;
	__u64 slot; /* of the counters; 0: the key has none */
};
/* In a counter's number: it is the rest's. */
#define WRITES_REST   (1u << 31)
#define WRITES_RECENT 16
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, WRITES_COUNTING *WRITES_RECENT);
	__type(key, __u32);
	__type(value, struct writes_recent);
} recents SEC(".maps");
/* Of backups. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, WRITES_COUNTING *WRITES_RECENT);
	__type(key, __u32);
	__type(value, struct writes_recent);
} recents_backed_up SEC(".maps");

static __always_inline struct writes_recent *writes_recent_at(__u32 index)
{
	if (index < WRITES_COUNTING * WRITES_RECENT)
		return bpf_map_lookup_elem(&recents, &index);
	index -= WRITES_COUNTING * WRITES_RECENT;
	return bpf_map_lookup_elem(&recents_backed_up, &index);
}

/* A pointer that the verifier knows the type of, as a number. */
static __always_inline __u64 writes_number(const void *pointer)
{
	__u64 number = 0;

	bpf_probe_read_kernel(&number, sizeof(number), &pointer);
	return number;
}

static __always_inline bool writes_is_error(__s64 result)
{
	/* -512 to -516 restart the call, nobody sees them */
	return result < 0 && result != -EAGAIN && !(result <= -ERESTARTSYS && result >= -ERESTARTSYS - 4);
}

/* As what an operation that fails is counted, if that is not an error of the program; 0: it is one. */
static __always_inline __u32 writes_refused(__u32 operation, __s64 result)
{
	if (result == -EXDEV)
		return writes_refused_exdev;
	if (result == -EOPNOTSUPP || result == -ENOSYS)
		return writes_refused_unsupported;
	if (result == -EINTR)
		return writes_refused_interrupted;
	if (result == -EINVAL && (operation == writes_sendfile || operation == writes_splice ||
				  operation == writes_copy_file_range))
		return writes_refused_unsupported;
	return 0;
}

static __always_inline bool writes_is_counted(__u16 type)
{
	return all_files || type == S_IFREG || type == S_IFBLK;
}

/* Each way through it would be one through all that follows. */
kt_function __u32 writes_slot(kt_duration_ns duration)
{
	__u64 rest = duration >> 8;
	__u32 slot = 0;

	if (rest >> 16) {
		slot += 16;
		rest >>= 16;
	}
	if (rest >> 8) {
		slot += 8;
		rest >>= 8;
	}
	if (rest >> 4) {
		slot += 4;
		rest >>= 4;
	}
	if (rest >> 2) {
		slot += 2;
		rest >>= 2;
	}
	return slot + (rest >> 1);
}

/* The key of what finds no room: by its cgroup, and what it may be added to. */
static __always_inline void writes_rest_of(struct writes_key *rest, const struct writes_key *key)
{
	rest->cgroup_id = key->cgroup_id;
	rest->memory_cgroup_id = key->memory_cgroup_id;
	rest->memory_hierarchy = key->memory_hierarchy;
	rest->operation = key->operation == writes_fsync	   ? writes_other_fsync
			  : key->operation == writes_mmap	   ? writes_other_mmap
			  : key->operation >= writes_refused_exdev ? writes_other_refused
								   : writes_other;
}

/* number: that of the operation's counter */
kt_function int writes_measure(__u32 index, __u32 number, kt_duration_ns duration)
{
	const struct writes_recent *recent = writes_recent_at(index);
	struct writes_latency *value;
	struct writes_key rest = {};
	const struct writes_key *key = &rest;
	__u32 slot = writes_slot(duration);

	if (!recent)
		return 0;
	if (number & WRITES_REST)
		writes_rest_of(&rest, &recent->key);
	else
		key = &recent->key;
	number = latencies_find(key);
	if (!number)
		number = latencies_make(key);
	value = number ? latencies_at(number) : 0;
	if (!value) {
		kt_lost(kt_loss_map_full);
		return 0;
	}
	value->time = 1;
	slot &= WRITES_SLOTS - 1;
	__sync_fetch_and_add(&value->slots[slot], 1);
	/* two at once: one of two long ones stays */
	if (duration > value->longest)
		value->longest = duration;
	return 0;
}

static __always_inline void writes_send(const struct writes_key *key, __u32 operation,
					const struct writes_operand *operand, __s64 bytes)
{
	struct kt_scratch *scratch = kt_scratch_of(operand->room);
	struct writes_event *event;
	__u32 walk;

	if (!scratch)
		return;
	event = &scratch->event;
	__builtin_memset(event, 0, __builtin_offsetof(struct writes_event, path));
	event->time = bpf_ktime_get_boot_ns();
	__builtin_memcpy(&event->cgroup_id, key, sizeof(*key));
	event->operation = operation;
	event->pid = operand->thread >> 32;
	event->tid = operand->thread;
	event->bytes = bytes;
	event->duration = operand->duration == writes_no_duration ? 0 : operand->duration;
	event->inode = kt_inode_number(operand->inode);
	event->error = operand->result < 0 ? operand->result : 0;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	walk = kt_walk((__u64)writes_dentry(operand), operand->room);
	event->path_bytes = walk;
	event->path_end = walk >> 16;
	bpf_probe_read_kernel(event->path, sizeof(event->path), scratch->path);
	kt_output(&writes_events, event, sizeof(*event));
}

static __always_inline struct writes_counter *writes_counter_at(__u32 number)
{
	return number & WRITES_REST ? writes_rest_at(number & ~WRITES_REST) : writes_at(number);
}

/*
 * The number of the counter of a key that is in no slot that this CPU remembers, or of its cgroup's rest; 0:
 * no room. mnt and dentry are what the key is of, to be told.
 */
kt_function __u32 writes_slow(__u32 index, __u32 room, __u64 mnt, __u64 dentry)
{
	struct writes_recent *recent = writes_recent_at(index);
	struct writes_counter *counter;
	struct writes_key rest = {};
	__u32 number;

	if (!recent)
		return 0;
	number = writes_find(&recent->key);
	if (!number) {
		if (recent->key.mount)
			kt_tell_mount(recent->key.mount, recent->key.device, mnt, room);
		if (by_file && recent->key.place)
			kt_tell_place(recent->key.place, recent->key.device, dentry, room);
		number = writes_make(&recent->key);
	}
	recent->slot = number;
	if (!number) {
		writes_rest_of(&rest, &recent->key);
		number = writes_rest_find(&rest);
		if (!number)
			number = writes_rest_make(&rest);
		if (!number)
			return 0;
		number |= WRITES_REST;
	}
	counter = writes_counter_at(number);
	/* it is to be seen as soon as it says whose it is */
	if (counter && !counter->time) {
		bpf_get_current_comm(counter->comm, sizeof(counter->comm));
		counter->time = 1;
	}
	return number;
}

/* Whether what was remembered is of this file, through this mount, by this cgroup. */
static __always_inline bool writes_is_recent(const struct writes_recent *recent,
					     const struct writes_operand *operand,
					     const struct kt_cgroups *who)
{
	if (recent->file != operand->file)
		return false;
	if (recent->inode != (__u64)operand->inode)
		return false;
	if (recent->mnt != (__u64)operand->mnt)
		return false;
	if (recent->key.cgroup_id != who->id)
		return false;
	if (memory_on_v1 && recent->key.memory_cgroup_id != who->memory_id)
		return false;
	return !by_process || recent->key.pid == operand->thread >> 32;
}

static __always_inline void writes_identify(struct writes_recent *recent, __u32 operation,
					    const struct writes_operand *operand,
					    const struct kt_cgroups *who)
{
	struct inode *inode = operand->inode;
	struct vfsmount *mnt = operand->mnt;
	struct mount *mount = kt_mount_of(mnt);
	struct writes_key *key = &recent->key;
	struct mnt_namespace *namespace;
	bool in_node = false;
	__u64 root = 0;

	recent->file = operand->file;
	recent->inode = (__u64)inode;
	recent->mnt = (__u64)mnt;
	recent->slot = 0;
	key->cgroup_id = who->id;
	key->memory_cgroup_id = who->memory_id;
	key->memory_hierarchy = who->memory_hierarchy;
	key->operation = operation;
	key->pid = by_process ? operand->thread >> 32 : 0;
	key->mount = 0;
	key->place = 0;
	if (operand->type == S_IFBLK) {
		/* lands on the device itself, not in the file system that its name is in */
		key->device = BPF_CORE_READ(inode, i_rdev);
	} else {
		key->device = BPF_CORE_READ(mnt, mnt_sb, s_dev);
		namespace = BPF_CORE_READ(mount, mnt_ns);
		in_node = kt_in_node(mount, namespace);
		if (!kt_mounts_have_numbers())
			root = kt_file_number(BPF_CORE_READ(mnt, mnt_root, d_inode));
		key->mount = kt_mount_number(mount, namespace, key->device, root, in_node);
	}
	if (by_file) {
		key->place = operand->file;
	} else if (in_node) {
		key->place = kt_place_of(writes_dentry(operand), key->device, operand->room);
		if (!kt_anchored())
			recent->file = 0;
	}
}

static __always_inline int writes_count(__u32 operation, struct writes_operand *operand,
					const struct kt_cgroups *who)
{
	__s64 bytes = operand->result > 0 ? operand->result : 0;
	struct writes_counter *entry;
	struct writes_recent *recent;
	__u32 index, number, refused = 0;

	if (operand->result < 0) {
		if (!writes_is_error(operand->result))
			return 0;
		refused = writes_refused(operation, operand->result);
	}
	if (kt_excluded(who))
		return 0;
	if ((by_process || events) && !operand->thread)
		operand->thread = bpf_get_current_pid_tgid();
	index = operand->room * WRITES_RECENT + ((operand->file ^ who->id) & (WRITES_RECENT - 1));
	recent = writes_recent_at(index);
	if (!recent)
		return 0;
	if (refused || !writes_is_recent(recent, operand, who))
		writes_identify(recent, refused ? refused : operation, operand, who);
	if (events) {
		if (recent->key.mount)
			kt_tell_mount(recent->key.mount, recent->key.device, writes_number(operand->mnt),
				      operand->room);
		writes_send(&recent->key, operation, operand, bytes);
	}
	number = recent->slot;
	entry = number ? writes_at(number) : 0;
	if (!entry) {
		number = writes_slow(index, operand->room, writes_number(operand->mnt),
				     by_file ? (__u64)writes_dentry(operand) : 0);
		entry = number ? writes_counter_at(number) : 0;
		if (!entry) {
			kt_lost(kt_loss_map_full);
			return 0;
		}
	}
	if (refused)
		recent->file = 0;
	if (operand->result < 0) {
		__sync_fetch_and_add(&entry->errors, 1);
		return 0;
	}
	__sync_fetch_and_add(&entry->count, 1);
	if (bytes)
		__sync_fetch_and_add(&entry->bytes, bytes);
	if (entry->last_file != operand->file) {
		struct writes_file_key file = {
		    .cgroup_id = who->id,
		    .memory_cgroup_id = who->memory_id,
		    .file = operand->file,
		    .device = recent->key.device,
		};
		__u8 one = 1;

		entry->last_file = operand->file;
		if (!bpf_map_update_elem(&files, &file, &one, BPF_NOEXIST))
			__sync_fetch_and_add(&entry->files, 1);
	}
	/* a page that becomes dirty takes no time that could be told from the fault's */
	if (latency && operation != writes_mmap && operand->duration != writes_no_duration)
		writes_measure(index, number, operand->duration);
	return 0;
}

/* What is read of an operand by probing memory: works for every pointer. */
static __always_inline void writes_describe(struct writes_operand *operand, struct vfsmount *mnt,
					    struct inode *inode)
{
	operand->mnt = mnt;
	operand->inode = inode;
	operand->type = BPF_CORE_READ(inode, i_mode) & S_IFMT;
	operand->file = kt_file_number(inode);
	if (by_file)
		operand->file ^= kt_upper_generation(inode);
}

/* typed: the file is an argument of an fexit program, and the verifier lets it be read as C reads it, without
 * a call */
static __always_inline int writes_count_file(__u32 operation, struct file *file, __s64 result,
					     kt_duration_ns duration, __u32 room, const bool typed)
{
	struct writes_operand operand = {.given = file, .room = room};
	struct kt_cgroups who;

	if (typed) {
		struct inode *inode = file->f_inode;

		operand.type = inode->i_mode & S_IFMT;
		if (!writes_is_counted(operand.type))
			return 0;
		operand.file = ((struct inode___u64 *)inode)->i_ino ^ (__u64)inode->i_generation << 32;
		if (by_file)
			operand.file ^= kt_upper_generation((void *)writes_number(inode));
		operand.mnt = file->f_path.mnt;
		operand.inode = inode;
	} else {
		writes_describe(&operand, BPF_CORE_READ(file, f_path.mnt), BPF_CORE_READ(file, f_inode));
		if (!writes_is_counted(operand.type))
			return 0;
	}
	operand.result = result;
	operand.duration = duration;
	kt_current_cgroups(&who);
	return writes_count(operation, &operand, &who);
}

#endif
