// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* clang-format off */
/*
 * writes: counters of every operation that changes files, by cgroup, device, mount, place and operation.
 *
 * Each operation of a user is counted once, where it enters the VFS and nothing nests it (docs/kernel.md):
 *
 *   write, pwrite      vfs_write: overlayfs writes on by vfs_iter_write, never by vfs_write
 *   writev, pwritev2   vfs_writev: called from the syscalls alone
 *   aio                aio_write, which is void of a result; aio_complete_rw has it, also when it comes later, in
 *                      another thread: a map remembers whose the request was
 *   io_uring           io_write: entered twice when the request is punted to a worker, the first time with the
 *                      result -EAGAIN; each other return is the one end of a request
 *   sendfile           do_sendfile; do_splice_direct below it also serves overlayfs' own copy-ups
 *   splice             do_splice (the syscall and io_uring)
 *   copy_file_range    vfs_copy_file_range
 *   fallocate          vfs_fallocate
 *   truncate           do_truncate with a file (ftruncate, O_TRUNC), vfs_truncate (truncate)
 *   fsync              vfs_fsync_range
 *   mmap               fault_dirty_shared_page: a page of a shared file mapping becomes dirty
 *
 * overlayfs calls the last but two itself, on the file below: that file has FMODE_NOACCOUNT (since 4.19,
 * d3b1084dfd36), and is left out by that. Copy-ups fsync what they made, through a mount in no namespace.
 *
 * Where a write lands is not decided here. Each mount is told once, by a stream, with its root in its file
 * system: a volume's path, as containers see volumes through bind mounts of their own. Processes of the node
 * reach everything through one mount: for files behind a mount of the node's namespace the key also holds the
 * place, a directory on the way up from the file, which user space picks by the anchors (the kubelet's pods,
 * /var/log/pods, containerd's root: so and so many levels below each). A directory is walked up from once;
 * what it came to is remembered by inode. Writes of containers never ask that.
 */
/* clang-format on */
#include "call_backups.bpf.h"
#include "cgroup_births.bpf.h"
#include "counters.bpf.h"
#include "path.bpf.h"
#include "who.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Set before load; what is false is compiled away by the verifier. */
const volatile bool all_files = false;	/* sockets, pipes and character devices too */
const volatile bool by_file = false;	/* place is the file itself */
const volatile bool by_process = false; /* pid is part of the key */
const volatile bool latency = false;
const volatile bool events = false; /* an event for each operation */
const volatile __u32 page_bytes = 4096;
const volatile __u32 node_mount_namespace = 0; /* inode number of PID 1's mount namespace */

/* Address of that namespace: set by the first write through a mount of it. */
__u64 node_namespace = 0;

typedef __u64 kt_mount;
typedef __u64 kt_place;

enum writes_operation {
	writes_write,
	writes_writev,
	writes_aio,
	writes_io_uring,
	writes_sendfile,
	writes_splice,
	writes_copy_file_range,
	writes_fallocate,
	writes_truncate,
	writes_fsync,
	writes_mmap,
	writes_other, /* what found no room in the table: of any kind but the two that are not added to the
			 others */
	writes_other_fsync,
	writes_other_mmap,
};

/* clang-format off */
#define WRITES_KEY                                                                                           \
	kt_cgroup_id cgroup_id;                                                                              \
	kt_cgroup_id memory_cgroup_id;                                                                       \
	kt_mount mount;                                                                                      \
	kt_place place;                                                                                      \
	kt_hierarchy memory_hierarchy;                                                                       \
	kt_dev device;                                                                                       \
	__u32 pid;                                                                                           \
	enum writes_operation operation
#define WRITES_VALUE                                                                                         \
	kt_count count;         /* operations that succeeded; pages of mmap */                               \
	kt_bytes bytes;         /* as returned, not as asked for */                                          \
	kt_count errors;                                                                                     \
	kt_count files;         /* distinct ones, each under the first of its operations */                  \
	__u64 last_file;                                                                                     \
	char comm[16]           /* of the first */
#define WRITES_SLOTS 32
#define WRITES_LATENCY                                                                                       \
	kt_duration_ns longest;                                                                              \
	kt_count slots[WRITES_SLOTS] /* of log2(ns), from 256 ns on */
/* clang-format on */

struct writes_key {
	WRITES_KEY;
};
struct writes_counter {
	kt_boot_ns time;
	WRITES_KEY;
	WRITES_VALUE;
};
struct writes_latency {
	kt_boot_ns time;
	WRITES_KEY;
	WRITES_LATENCY;
};
KT_COUNTERS(writes, writes_key, writes_counter, 16384);
/* Where writes has no room: an entry for each cgroup and kind of sum, so that sums stay exact. */
KT_COUNTERS(writes_rest, writes_key, writes_counter, 4096);
/* By the keys of both. */
KT_COUNTERS(latencies, writes_key, writes_latency, 16384 + 4096);

/* Beside the operations: inside fsync(2) or fdatasync(2). */
#define writes_syncing 64

/* A mount, when the first counter of it is made. Paths are leaf first, as kt_path gives them. */
struct writes_mount_event {
	kt_boot_ns time;
	kt_mount mount;
	__u64 magic; /* of the file system */
	kt_dev device;
	__u32 mount_id;	 /* as in mountinfo */
	__u32 namespace; /* inode number of the mount namespace; 0: in none (memfd, pipe, socket) */
	__u16 root_bytes;
	__u16 root_end;	   /* enum kt_path_end */
	__u16 point_bytes; /* of the mount point, from the root of the file system it is on */
	__u16 point_end;
	__u32 in_node; /* in the namespace of the node's PID 1 */
	char type[16];
	char source[64];
	char root[956];
	char point[956];
};
KT_STREAM(writes_mounts, writes_mount_event, 1024 * 1024);

/* A place: a directory, or with by_file a file. */
struct writes_place_event {
	kt_boot_ns time;
	kt_place place;
	kt_dev device;
	__u16 path_bytes;
	__u16 path_end;
	char path[1024 - 8 - 24];
};
KT_STREAM(writes_places, writes_place_event, 1024 * 1024);

/* One operation, with events. */
struct writes_event {
	kt_boot_ns time;
	WRITES_KEY;
	kt_bytes bytes;
	kt_duration_ns duration;
	kt_inode inode;
	kt_errno error;
	__u32 tid;
	__u16 path_bytes;
	__u16 path_end;
	__u32 reserved;
	char comm[16];
	char path[1024 - 8 - 112];
};
KT_STREAM(writes_events, writes_event, 4 * 1024 * 1024);

struct writes_inode {
	kt_inode inode;
	kt_dev device;
	__u32 generation; /* inode numbers are given again */
};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 128);
	__type(key,
	       struct writes_inode); /* generation 0: user space cannot ask for it; all 0: these are all */
	__type(value, __u32);	     /* levels below it that a place is */
} anchors SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct writes_inode); /* a directory */
	__type(value, kt_place);
} directories SEC(".maps");

struct writes_told_key {
	__u64 number;
	__u32 device;
	__u32 kind;
};
/* Mounts and places that user space was told; forgetting one tells it again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct writes_told_key);
	__type(value, __u8);
} told SEC(".maps");

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

struct writes_start {
	void *object; /* file, path or request */
	kt_boot_ns time;
	struct kt_cgroups who;
	__u64 thread;
	__u64 nested; /* a call by a stacking file system is under way inside */
};
/* An operation that a thread is in. LRU: a return that the kernel missed must not fill the map. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64); /* pid_tgid | operation << 56 */
	__type(value, struct writes_start);
} starts SEC(".maps");
/* An aio request on its way. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64); /* struct kiocb * */
	__type(value, struct writes_start);
} requests SEC(".maps");

struct writes_scratch {
	union {
		struct writes_mount_event mount;
		struct writes_place_event place;
		struct writes_event event;
	};
	char path[KT_PATH_BYTES + KT_NAME_BYTES];
};

/* The groups of programs that have a backup: first those that count, then those at the entries. */
/* clang-format off */
#define WRITES_COUNTING_GROUPS(X)                                                                            \
	X(write) X(writev) X(aio) X(aio_end) X(iouring) X(sendfile) X(splice) X(copyrange) X(fallocate)      \
	X(truncate) X(truncatepath) X(fsync) X(fsynced) X(fdatasynced) X(mmap)
#define WRITES_BEGIN_GROUPS(X)                                                                               \
	X(write_begin) X(writev_begin) X(aio_begin) X(iouring_begin) X(sendfile_begin) X(splice_begin)       \
	X(copyrange_begin) X(fallocate_begin) X(truncate_begin) X(truncatepath_begin) X(fsync_begin)         \
	X(fsynced_begin) X(fdatasynced_begin)
/* clang-format on */
#define WRITES_GROUPS(X) WRITES_COUNTING_GROUPS(X) WRITES_BEGIN_GROUPS(X)
KT_GROUPS(WRITES_GROUPS);

/*
 * One copy of a program runs on a CPU at a time, but another program may, where a preempted one waits: each
 * has a room of its own on each CPU.
 */
#define WRITES_ONE_MORE(group)	 +1
#define WRITES_COUNTING		 (0 WRITES_COUNTING_GROUPS(WRITES_ONE_MORE))
#define WRITES_ROOM(group, copy) (kt_group_##group + ((copy) == kt_backup ? WRITES_COUNTING : 0))

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2 * WRITES_COUNTING);
	__type(key, __u32);
	__type(value, struct writes_scratch);
} scratch_backed_up SEC(".maps");

static __always_inline struct writes_scratch *writes_scratch_of(__u32 room)
{
	__u32 index = backed_up ? room : 0;

	return bpf_map_lookup_elem(&scratch_backed_up, &index);
}

static const char zeros[KT_PATH_BYTES + KT_NAME_BYTES];
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

static __always_inline struct mount *writes_mount_of(struct vfsmount *mnt)
{
	return (void *)mnt - bpf_core_field_offset(struct mount, mnt);
}

/* The inode number of a mount's namespace; 0 where it is in none (an error pointer, or gone). */
static __always_inline __u32 writes_namespace(const struct mount *mount)
{
	struct mnt_namespace *namespace = BPF_CORE_READ(mount, mnt_ns);
	__u32 number = 0;

	if (namespace)
		BPF_CORE_READ_INTO(&number, namespace, ns.inum);
	return number;
}

/* Tell once; false when it was told already. */
static __always_inline bool writes_tell(__u32 kind, __u64 number, __u32 device)
{
	struct writes_told_key key = {.number = number, .device = device, .kind = kind};
	__u8 one = 1;

	if (bpf_map_lookup_elem(&told, &key))
		return false;
	bpf_map_update_elem(&told, &key, &one, BPF_ANY);
	return true;
}

/*
 * A function of its own: the verifier looks at it once for a program, not once for each way that leads there,
 * and its ways do not become the caller's. Such functions take numbers only (pointers since 5.13).
 */
#define writes_function __attribute__((noinline))

/* A pointer that the verifier knows the type of, as a number. */
static __always_inline __u64 writes_number(const void *pointer)
{
	__u64 number = 0;

	bpf_probe_read_kernel(&number, sizeof(number), &pointer);
	return number;
}

/* Walk up from a dentry into the scratch's path: struct kt_path_walk, its end in the upper half. */
writes_function __u32 writes_walk(__u64 dentry, __u32 room)
{
	struct writes_scratch *scratch = writes_scratch_of(room);
	struct kt_path_walk walk;

	if (!scratch)
		return (__u32)kt_path_unnamed << 16;
	bpf_probe_read_kernel(scratch->path, sizeof(zeros), zeros);
	walk = kt_path(scratch->path, (void *)dentry);
	return walk.bytes | (__u32)walk.end << 16;
}

writes_function int writes_tell_place(kt_place number, kt_dev device, __u64 dentry, __u32 room)
{
	struct writes_scratch *scratch = writes_scratch_of(room);
	struct writes_place_event *event;
	__u32 walk;

	if (!scratch || !writes_tell(0, number, device))
		return 0;
	event = &scratch->place;
	event->time = bpf_ktime_get_boot_ns();
	event->place = number;
	event->device = device;
	walk = writes_walk(dentry, room);
	event->path_bytes = walk;
	event->path_end = walk >> 16;
	bpf_probe_read_kernel(event->path, sizeof(event->path), scratch->path);
	kt_output(&writes_places, event, sizeof(*event));
	return 0;
}

writes_function int writes_tell_mount(kt_mount number, kt_dev device, __u64 vfsmount, __u32 room)
{
	struct writes_scratch *scratch = writes_scratch_of(room);
	struct vfsmount *mnt = (void *)vfsmount;
	struct mount *mount = writes_mount_of(mnt);
	struct writes_mount_event *event;
	__u32 walk;

	if (!scratch || !writes_tell(1, number, device))
		return 0;
	event = &scratch->mount;
	__builtin_memset(event, 0, __builtin_offsetof(struct writes_mount_event, root));
	event->time = bpf_ktime_get_boot_ns();
	event->mount = number;
	event->device = device;
	event->mount_id = BPF_CORE_READ(mount, mnt_id);
	event->namespace = writes_namespace(mount);
	event->in_node = event->namespace == node_mount_namespace;
	event->magic = BPF_CORE_READ(mnt, mnt_sb, s_magic);
	bpf_probe_read_kernel_str(event->type, sizeof(event->type), BPF_CORE_READ(mnt, mnt_sb, s_type, name));
	bpf_probe_read_kernel_str(event->source, sizeof(event->source), BPF_CORE_READ(mount, mnt_devname));
	walk = writes_walk((__u64)BPF_CORE_READ(mnt, mnt_root), room);
	event->root_bytes = walk;
	event->root_end = walk >> 16;
	bpf_probe_read_kernel(event->root, sizeof(event->root), scratch->path);
	walk = writes_walk((__u64)BPF_CORE_READ(mount, mnt_mountpoint), room);
	event->point_bytes = walk;
	event->point_end = walk >> 16;
	bpf_probe_read_kernel(event->point, sizeof(event->point), scratch->path);
	kt_output(&writes_mounts, event, sizeof(*event));
	return 0;
}

static __always_inline void writes_inode_of(struct writes_inode *key, struct dentry *dentry, kt_dev device)
{
	struct inode *inode = BPF_CORE_READ(dentry, d_inode);

	key->inode = kt_inode_number(inode);
	key->generation = BPF_CORE_READ(inode, i_generation);
	key->device = device;
}

/* Whether user space has said all anchors: until then nothing is concluded for good. */
static __always_inline bool writes_anchored(void)
{
	struct writes_inode none = {};

	return bpf_map_lookup_elem(&anchors, &none) != 0;
}

/* The place of a directory's files: so and so many levels below the nearest anchor above; 0 where there is
 * none. */
writes_function kt_place writes_find_place(__u64 directory, kt_dev device, __u32 room)
{
	struct dentry *at = (void *)directory;
	struct dentry *one = 0, *two = 0, *three = 0, *four = 0, *found = 0;
	struct writes_inode key = {};
	kt_place place = 0;

	writes_inode_of(&key, at, device);
	for (int depth = 0; depth < 48; depth++) {
		struct writes_inode anchor = {.device = device};
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
		four = three;
		three = two;
		two = one;
		one = at;
		at = parent;
	}
	if (found) {
		place = kt_file_number(BPF_CORE_READ(found, d_inode));
		writes_tell_place(place, device, (__u64)found, room);
	}
	if (writes_anchored())
		bpf_map_update_elem(&directories, &key, &place, BPF_ANY);
	return place;
}

static __always_inline kt_place writes_place(struct dentry *file, kt_dev device, __u32 room)
{
	struct dentry *directory = BPF_CORE_READ(file, d_parent);
	struct writes_inode key = {};
	kt_place *known;

	writes_inode_of(&key, directory, device);
	known = bpf_map_lookup_elem(&directories, &key);
	return known ? *known : writes_find_place((__u64)directory, device, room);
}

static __always_inline bool writes_is_error(__s64 result)
{
	/* -512 to -516 restart the call, nobody sees them */
	return result < 0 && result != -EAGAIN && !(result <= -ERESTARTSYS && result >= -ERESTARTSYS - 4);
}

/* Each way through it would be one through all that follows. */
writes_function __u32 writes_slot(kt_duration_ns duration)
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
	rest->operation = key->operation == writes_fsync  ? writes_other_fsync
			  : key->operation == writes_mmap ? writes_other_mmap
							  : writes_other;
}

/* number: that of the operation's counter */
writes_function int writes_measure(__u32 index, __u32 number, kt_duration_ns duration)
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

static __always_inline void writes_send(const struct writes_key *key, const struct writes_operand *operand,
					__s64 bytes)
{
	struct writes_scratch *scratch = writes_scratch_of(operand->room);
	struct writes_event *event;
	__u32 walk;

	if (!scratch)
		return;
	event = &scratch->event;
	__builtin_memset(event, 0, __builtin_offsetof(struct writes_event, path));
	event->time = bpf_ktime_get_boot_ns();
	__builtin_memcpy(&event->cgroup_id, key, sizeof(*key));
	event->pid = operand->thread >> 32;
	event->tid = operand->thread;
	event->bytes = bytes;
	event->duration = operand->duration;
	event->inode = kt_inode_number(operand->inode);
	event->error = operand->result < 0 ? operand->result : 0;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	walk = writes_walk((__u64)writes_dentry(operand), operand->room);
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
writes_function __u32 writes_slow(__u32 index, __u32 room, __u64 mnt, __u64 dentry)
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
			writes_tell_mount(recent->key.mount, recent->key.device, mnt, room);
		if (by_file && recent->key.place)
			writes_tell_place(recent->key.place, recent->key.device, dentry, room);
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

static __always_inline bool writes_is_counted(__u16 type)
{
	return all_files || type == S_IFREG || type == S_IFBLK;
}

/* Whether a mount's namespace is the node's own: by its address, once that is known. */
static __always_inline bool writes_in_node(const struct mount *mount, const struct mnt_namespace *namespace)
{
	if (!node_mount_namespace)
		return false;
	if (node_namespace)
		return (__u64) namespace == node_namespace;
	if (writes_namespace(mount) != node_mount_namespace)
		return false;
	node_namespace = (__u64) namespace;
	return true;
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
	struct mount *mount = writes_mount_of(mnt);
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
		in_node = writes_in_node(mount, namespace);
		if (!kt_mounts_have_numbers())
			root = kt_file_number(BPF_CORE_READ(mnt, mnt_root, d_inode));
		key->mount = kt_mount_number(mount, namespace, key->device, root, in_node);
	}
	if (by_file) {
		key->place = operand->file;
	} else if (in_node) {
		key->place = writes_place(writes_dentry(operand), key->device, operand->room);
		if (!writes_anchored())
			recent->file = 0;
	}
}

static __always_inline int writes_count(__u32 operation, struct writes_operand *operand,
					const struct kt_cgroups *who)
{
	__s64 bytes = operand->result > 0 ? operand->result : 0;
	struct writes_counter *entry;
	struct writes_recent *recent;
	__u32 index, number;

	if (operand->result < 0 && !writes_is_error(operand->result))
		return 0;
	if (kt_excluded(who))
		return 0;
	if ((by_process || events) && !operand->thread)
		operand->thread = bpf_get_current_pid_tgid();
	index = operand->room * WRITES_RECENT + ((operand->file ^ who->id) & (WRITES_RECENT - 1));
	recent = writes_recent_at(index);
	if (!recent)
		return 0;
	if (!writes_is_recent(recent, operand, who))
		writes_identify(recent, operation, operand, who);
	if (events) {
		if (recent->key.mount)
			writes_tell_mount(recent->key.mount, recent->key.device, writes_number(operand->mnt),
					  operand->room);
		writes_send(&recent->key, operand, bytes);
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
	if (latency && operation != writes_mmap)
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

static __always_inline bool writes_is_nested(const struct file *file)
{
	return BPF_CORE_READ(file, f_mode) & FMODE_NOACCOUNT;
}

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
	bpf_map_update_elem(&starts, &thread, &start, BPF_ANY);
	return 0;
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

static __always_inline int writes_file_end(__u32 operation, struct file *file, __s64 result, __u32 room)
{
	return writes_count_file(operation, file, result, writes_duration(operation), room, true);
}

static __always_inline int writes_file_return(__u32 operation, __s64 result, __u32 room)
{
	kt_duration_ns duration = 0;
	struct file *file = writes_object(operation, &duration);

	return file ? writes_count_file(operation, file, result, duration, room, false) : 0;
}

/* sendfile(2) comes with a number: its file, as this process has it now. */
static __always_inline struct file *writes_file_of(int fd)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **slots = BPF_CORE_READ(table, fd);
	struct file *file = 0;

	if ((__u32)fd >= BPF_CORE_READ(table, max_fds))
		return 0;
	bpf_probe_read_kernel(&file, sizeof(file), slots + (__u32)fd);
	return file;
}

static __always_inline int writes_sendfile_end(int fd, __s64 result, __u32 room)
{
	kt_duration_ns duration = writes_duration(writes_sendfile);
	struct file *file = writes_file_of(fd);

	return file ? writes_count_file(writes_sendfile, file, result, duration, room, false) : 0;
}

static __always_inline int writes_fsync_end(struct file *file, __s64 result, kt_duration_ns duration,
					    __u32 room)
{
	/* what a copy-up has made is synced through a mount of overlayfs' own */
	if (!writes_namespace(writes_mount_of(BPF_CORE_READ(file, f_path.mnt))))
		return 0;
	return writes_count_file(writes_fsync, file, result, duration, room, false);
}

/* What vfs_fsync_range counts is not counted again by the system call around it. */
static __always_inline void writes_passed_fsync(void)
{
	writes_begin(writes_syncing, 0, true);
}

static __always_inline int writes_range_synced(struct file *file, __s64 result, __u32 room)
{
	if (writes_is_nested(file))
		return 0;
	writes_passed_fsync();
	return writes_fsync_end(file, result, writes_duration(writes_fsync), room);
}

static __always_inline int writes_range_return(__s64 result, __u32 room)
{
	kt_duration_ns duration = 0;
	struct file *file = writes_object(writes_fsync, &duration);

	if (file)
		writes_passed_fsync();
	return file ? writes_fsync_end(file, result, duration, room) : 0;
}

static __always_inline int writes_sync_end(int fd, __s64 result, __u32 room)
{
	__u64 thread = writes_thread(writes_syncing);
	struct writes_start *start = bpf_map_lookup_elem(&starts, &thread);
	struct file *file = writes_file_of(fd);
	kt_duration_ns duration;

	if (!start)
		return 0;
	duration = bpf_ktime_get_boot_ns() - start->time;
	if (start->nested)
		file = 0;
	bpf_map_delete_elem(&starts, &thread);
	return file ? writes_fsync_end(file, result, duration, room) : 0;
}

static __always_inline int writes_sync_return(__s64 result, __u32 room)
{
	kt_duration_ns duration = 0;
	struct file *file = writes_object(writes_syncing, &duration);

	return file ? writes_fsync_end(file, result, duration, room) : 0;
}

static __always_inline int writes_path_end(const struct path *given, __s64 result, kt_duration_ns duration,
					   __u32 room)
{
	struct writes_operand operand = {.result = result, .duration = duration, .room = room};
	struct dentry *dentry = BPF_CORE_READ(given, dentry);
	struct kt_cgroups who;

	operand.dentry = dentry;
	writes_describe(&operand, BPF_CORE_READ(given, mnt), BPF_CORE_READ(dentry, d_inode));
	if (!writes_is_counted(operand.type))
		return 0;
	kt_current_cgroups(&who);
	return writes_count(writes_truncate, &operand, &who);
}

static __always_inline int writes_path_return(int result, __u32 room)
{
	kt_duration_ns duration = 0;
	struct path *path = writes_object(writes_truncate, &duration);

	return path ? writes_path_end(path, result, duration, room) : 0;
}

static __always_inline int writes_io_uring_end(void *request, int result, kt_duration_ns duration, __u32 room)
{
	struct file *file = BPF_CORE_READ((struct kiocb *)request, ki_filp);

	/* -EAGAIN: a worker will enter again; -EIOCBQUEUED: on its way, and counted as asked for */
	if (result == -EAGAIN)
		return 0;
	if (result >= 0 || result == -EIOCBQUEUED)
		result = kt_io_uring_result(request);
	return writes_count_file(writes_io_uring, file, result, duration, room, false);
}

static __always_inline int writes_io_uring_return(int result, __u32 room)
{
	kt_duration_ns duration = 0;
	void *request = writes_object(writes_io_uring, &duration);

	return request ? writes_io_uring_end(request, result, duration, room) : 0;
}

static __always_inline int writes_aio_begin(const void *request)
{
	struct writes_start start = {};

	start.object = BPF_CORE_READ((struct kiocb *)request, ki_filp);
	start.time = bpf_ktime_get_boot_ns();
	start.thread = bpf_get_current_pid_tgid();
	kt_current_cgroups(&start.who);
	bpf_map_update_elem(&requests, &request, &start, BPF_ANY);
	return 0;
}

static __always_inline int writes_aio_end(const void *request, __s64 result, __u32 room, __u32 group,
					  __u32 copy)
{
	struct writes_start *start = bpf_map_lookup_elem(&requests, &request);
	struct writes_operand operand = {.result = result, .room = room};
	struct kt_cgroups who;
	struct file *file;

	if (!start)
		return 0;
	file = start->object;
	who = start->who;
	operand.duration = bpf_ktime_get_boot_ns() - start->time;
	operand.thread = start->thread;
	/* another program may have done that: aio_end's other copy, which an interrupt may run at any time */
	if (bpf_map_delete_elem(&requests, &request))
		return 0;
	kt_did(group, copy);
	operand.given = file;
	writes_describe(&operand, BPF_CORE_READ(file, f_path.mnt), BPF_CORE_READ(file, f_inode));
	return writes_is_counted(operand.type) ? writes_count(writes_aio, &operand, &who) : 0;
}

static __always_inline int writes_aio_enter(const void *request)
{
	writes_begin(writes_aio, request, false);
	return writes_aio_begin(request);
}

/* refused before it was on its way */
static __always_inline int writes_aio_return(int result, __u32 room)
{
	kt_duration_ns duration = 0;
	void *request = writes_object(writes_aio, &duration);

	return request && result < 0 ? writes_aio_end(request, result, room, 0, kt_only) : 0;
}

static __always_inline int writes_page_dirtied(const struct vm_fault *fault, __u32 room)
{
	struct file *file = BPF_CORE_READ(fault, vma, vm_file);
	struct writes_operand operand = {.result = page_bytes, .room = room};
	struct kt_file_path path;
	struct kt_cgroups who;
	struct dentry *dentry;

	if (!file)
		return 0;
	kt_user_path(&path, file);
	dentry = path.dentry;
	operand.dentry = dentry;
	writes_describe(&operand, path.mnt, BPF_CORE_READ(dentry, d_inode));
	if (!writes_is_counted(operand.type))
		return 0;
	kt_current_cgroups(&who);
	return writes_count(writes_mmap, &operand, &who);
}

static __always_inline int writes_truncate_end(unsigned long long *ctx, __u32 room)
{
	__u64 file, result;

	/* one argument more since idmapped mounts; asm, or clang computes an address, which is refused */
	if (kt_inode_operations_are_idmapped()) {
		file = ctx[4];
		asm volatile("" : "+r"(file));
		result = ctx[5];
		asm volatile("" : "+r"(result));
	} else {
		file = ctx[3];
		asm volatile("" : "+r"(file));
		result = ctx[4];
		asm volatile("" : "+r"(result));
	}
	/* without a file it is truncate(2): vfs_truncate has the path */
	return file ? writes_count_file(writes_truncate, (void *)file, (int)result,
					writes_duration(writes_other), room, false)
		    : 0;
}

static __always_inline void *writes_truncated(struct pt_regs *ctx)
{
	__u64 fourth = PT_REGS_PARM4(ctx), fifth = PT_REGS_PARM5(ctx);

	asm volatile("" : "+r"(fourth), "+r"(fifth));
	return (void *)(kt_inode_operations_are_idmapped() ? fifth : fourth);
}

static __always_inline int writes_truncate_return(int result, __u32 room)
{
	kt_duration_ns duration = 0;
	struct file *file = writes_object(writes_other, &duration);

	return file ? writes_count_file(writes_truncate, file, result, duration, room, false) : 0;
}

/*
 * The programs (hooks.bpf.h). Groups that count may use their `room`. fentry and fexit have backups that ask
 * kt_call_handled.
 */
#define WRITES_IN_ROOM(group, call)                                                                          \
	({                                                                                                   \
		const __u32 room __attribute__((unused)) = WRITES_ROOM(group, copy);                         \
                                                                                                             \
		call;                                                                                        \
	})
#define WRITES_ONCE(group, call) WRITES_IN_ROOM(group, kt_call_handled(kt_backed_up_##group, copy) ? 0 : call)
#define WRITES_FENTRY(group, function, call, ...)                                                            \
	KT_FENTRY(group, function, WRITES_ONCE(group, call), ##__VA_ARGS__)
#define WRITES_FEXIT(group, function, call, ...)                                                             \
	KT_FEXIT(group, function, WRITES_ONCE(group, call), ##__VA_ARGS__)
#define WRITES_KPROBE(group, function, call, ...)                                                            \
	KT_KPROBE(group##__kprobe, function, kt_only, WRITES_IN_ROOM(group, call), ##__VA_ARGS__)
#define WRITES_KRETPROBE(group, function, call, returns)                                                     \
	KT_KRETPROBE(group##__kprobe, function, kt_only, WRITES_IN_ROOM(group, call), returns)

/*
 * An operation: its programs at the return, and at the entry (GROUP_begin). fexit has the arguments beside
 * the result: where it attaches, `end` needs nothing of the entry but the time, and that only with latency or
 * events (user space leaves GROUP_begin__fentry out otherwise). A kretprobe has the result alone: for
 * `returned`, the kprobe at the entry remembers the object.
 */
#define WRITES_OPERATION(group, function, operation, object, end, returned, returns, ...)                    \
	WRITES_FEXIT(group, function, end, ##__VA_ARGS__, returns)                                           \
	WRITES_FENTRY(group##_begin, function, writes_begin(operation, 0, false), ##__VA_ARGS__)             \
	WRITES_KPROBE(group##_begin, function, writes_begin(operation, object, false), ##__VA_ARGS__)        \
	WRITES_KRETPROBE(group, function, returned, returns)

/*
 * On a file, which is argument number `place`: kprobes have five by name at most, and these need but one.
 * What is `nested` in an operation of a stacking file system is not counted.
 */
#define WRITES_FILE_BY(group, function, operation, place, nested, end, returned, returns, ...)               \
	WRITES_FEXIT(group, function, end, ##__VA_ARGS__, returns)                                           \
	WRITES_FENTRY(group##_begin, function, ({                                                            \
			      struct file *file __attribute__((unused)) = (void *)ctx[(place)-1];            \
                                                                                                             \
			      (nested) ? 0 : writes_begin(operation, 0, false);                              \
		      }))                                                                                    \
	WRITES_KPROBE(group##_begin, function, ({                                                            \
			      struct file *file = (void *)PT_REGS_PARM##place(ctx);                          \
                                                                                                             \
			      writes_begin(operation, file, nested);                                         \
		      }))                                                                                    \
	WRITES_KRETPROBE(group, function, returned, returns)
#define WRITES_FILE(group, function, operation, place, nested, returns, ...)                                 \
	WRITES_FILE_BY(group, function, operation, place, nested,                                            \
		       (nested) ? 0 : writes_file_end(operation, file, result, room),                        \
		       writes_file_return(operation, result, room), returns, ##__VA_ARGS__)

WRITES_FILE(write, "vfs_write", writes_write, 1, false, __s64 result, struct file *file, const char *buffer,
	    __u64 count, void *position)
WRITES_FILE(writev, "vfs_writev", writes_writev, 1, false, __s64 result, struct file *file,
	    const void *vector, __u64 length, void *position, int flags)
WRITES_FILE(splice, "do_splice", writes_splice, 3, false, __s64 result, struct file *in, void *from,
	    struct file *file, void *to, __u64 length, __u32 flags)
WRITES_OPERATION(sendfile, "do_sendfile", writes_sendfile, writes_file_of(out),
		 writes_sendfile_end(out, result, room), writes_file_return(writes_sendfile, result, room),
		 __s64 result, int out, int in, void *position, __u64 count, __u64 most)
WRITES_FILE(copyrange, "vfs_copy_file_range", writes_copy_file_range, 3, writes_is_nested(file), __s64 result,
	    struct file *in, __u64 from, struct file *file, __u64 to, __u64 length, __u32 flags)
WRITES_FILE(fallocate, "vfs_fallocate", writes_fallocate, 1, writes_is_nested(file), int result,
	    struct file *file, int mode, __u64 offset, __u64 length)
WRITES_FILE_BY(fsync, "vfs_fsync_range", writes_fsync, 1, writes_is_nested(file),
	       writes_range_synced(file, result, room), writes_range_return(result, room), int result,
	       struct file *file, __u64 start, __u64 end, int datasync)
WRITES_OPERATION(truncatepath, "vfs_truncate", writes_truncate, path,
		 writes_path_end(path, (int)result, writes_duration(writes_truncate), room),
		 writes_path_return(result, room), __s64 result, const struct path *path, __u64 length)
/* do_truncate inside vfs_truncate must not end what that began: an operation of its own. */
WRITES_FEXIT(truncate, "do_truncate", writes_truncate_end(ctx, room))
WRITES_FENTRY(truncate_begin, "do_truncate", writes_begin(writes_other, 0, false))
WRITES_KPROBE(truncate_begin, "do_truncate", writes_begin(writes_other, writes_truncated(ctx), false))
WRITES_KRETPROBE(truncate, "do_truncate", writes_truncate_return(result, room), int result)
WRITES_OPERATION(iouring, "io_write", writes_io_uring, request,
		 writes_io_uring_end(request, result, writes_duration(writes_io_uring), room),
		 writes_io_uring_return(result, room), int result, void *request, __u32 flags)

/* aio_write tells what was refused before it was on its way, aio_complete_rw the rest, at its entry. */
WRITES_FENTRY(aio_begin, "aio_write", writes_aio_begin(request), void *request)
WRITES_FEXIT(aio, "aio_write", result < 0 ? writes_aio_end(request, result, room, 0, kt_only) : 0,
	     void *request, void *iocb, bool vectored, bool compat, int result)
WRITES_KPROBE(aio_begin, "aio_write", writes_aio_enter(request), void *request)
WRITES_KRETPROBE(aio, "aio_write", writes_aio_return(result, room), int result)
KT_ENTRY(aio_end, "aio_complete_rw",
	 writes_aio_end(request, result, WRITES_ROOM(aio_end, copy), kt_backed_up_aio_end, copy),
	 void *request, __s64 result)

/*
 * fsync(2) and fdatasync(2) are in one file with vfs_fsync_range, and compilers take its body into one or
 * both of them (6.1: into fdatasync): what did not pass vfs_fsync_range is counted at the return of the
 * system call.
 */
#define WRITES_SYNC(group, function)                                                                         \
	WRITES_OPERATION(group, function, writes_syncing, writes_file_of(kt_syscall_argument(registers)),    \
			 writes_sync_end(kt_syscall_argument(registers), result, room),                      \
			 writes_sync_return(result, room), __s64 result, struct pt_regs *registers)
WRITES_SYNC(fsynced, KT_SYSCALL(fsync))
WRITES_SYNC(fdatasynced, KT_SYSCALL(fdatasync))

WRITES_FENTRY(mmap, "fault_dirty_shared_page", writes_page_dirtied(fault, room), struct vm_fault *fault)
WRITES_KPROBE(mmap, "fault_dirty_shared_page", writes_page_dirtied(fault, room), struct vm_fault *fault)
