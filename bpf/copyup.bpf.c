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
#include "path.bpf.h"
#include "who.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Only copy-ups whose lower file has at least this size; set before load. */
const volatile __u64 min_size_bytes = 0;

/* What led to a copy-up: the flags of an open, or the overlay operation that is under way. */
enum copyup_trigger {
	copyup_other,
	copyup_open_write,
	copyup_open_truncate,
	copyup_chmod,
	copyup_chown,
	copyup_utimes,
	copyup_truncate,
	copyup_rename,
	copyup_link,
	copyup_xattr,
	copyup_unlink,
	copyup_create,
	copyup_chmod_same, /* to the mode that it has */
	copyup_chown_same, /* to the owner that it has, or to none */
	copyup_chattr,
	copyup_file_handle,
};

/* Which part was copied: with metacopy=on the metadata comes first, and the data with the first write. */
enum copyup_part {
	copyup_whole,
	copyup_metadata,
	copyup_data,
};

/* clang-format off */
/* KT_WHO's time is when ovl_copy_up_one returned. */
#define COPYUP_HEADER                                                                                        \
	KT_WHO;                                                                                              \
	kt_inode inode;          /* of the overlay's inode */                                                \
	kt_bytes size;           /* of the lower file, before any truncation */                              \
	kt_bytes copied;                                                                                     \
	kt_bytes cloned;                                                                                     \
	kt_duration_ns duration;                                                                             \
	kt_duration_ns parents_duration; /* of the parents that were copied up on the way */                 \
	kt_open_flags flags;     /* as ovl_copy_up_one was given them */                                     \
	kt_errno error;                                                                                      \
	kt_mode mode;                                                                                        \
	__u16 path_bytes;                                                                                    \
	__u16 path_end;          /* enum kt_path_end */                                                      \
	__u16 reserved;                                                                                      \
	enum copyup_trigger trigger;                                                                         \
	enum copyup_part part;                                                                               \
	__u16 layer_index;       /* in lowerdir, from 1; 0: unknown */                                       \
	__u16 parents;           /* of the object that the operation is about: how many came on the way */   \
	__u32 is_parent          /* this is one of them */
/* clang-format on */
#define COPYUP_HEADER_BYTES 136

struct copyup_event {
	COPYUP_HEADER;
	char path[512 - 8 - COPYUP_HEADER_BYTES];
};
/* The same event when its path does not fit. */
struct copyup_long_event {
	COPYUP_HEADER;
	char path[8192 - 8 - COPYUP_HEADER_BYTES];
};
KT_STREAM(copyup, copyup_event, 4 * 1024 * 1024);
KT_STREAM(copyup_long, copyup_long_event, 512 * 1024);

/*
 * Which overlay a device number is of, told once: by the upperdir that the kernel itself has for it. Numbers
 * of overlays are given again as soon as they are free, and what the mount table shows a moment later may be
 * the next one's.
 */
struct copyup_overlay_event {
	kt_boot_ns time; /* from when on it is known */
	kt_dev device;
	__u16 upperdir_bytes; /* with its NUL; all of them: it is cut */
	__u16 reserved;
	char upperdir[1024 - 8 - 16];
};
KT_STREAM(copyup_overlays, copyup_overlay_event, 256 * 1024);

struct copyup_overlay_key {
	__u64 upper; /* number and generation of the upperdir's inode: its directory, and no later one */
	kt_dev device;
	__u32 reserved;
};
/* Those that were told; forgetting one tells it again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct copyup_overlay_key);
	__type(value, __u8);
} overlays SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, kt_copies);
	__type(key, __u32);
	__type(value, struct copyup_overlay_event);
} overlay_scratch SEC(".maps");

/* The overlay operation that a thread is in: set at its entry, deleted at its return. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384); /* threads inside such an operation at one time */
	__type(key, __u64);	    /* pid_tgid */
	__type(value, __u32);	    /* enum copyup_trigger */
} operations SEC(".maps");

/*
 * The object that a thread copies up (ovl_copy_up_flags), and what came on the way. Set anew each time before
 * it is read, so that nothing needs to delete it: the least recently used go.
 */
struct copyup_target {
	struct dentry *dentry;
	kt_duration_ns parents_duration;
	__u64 parents;
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64); /* pid_tgid */
	__type(value, struct copyup_target);
} targets SEC(".maps");

struct copyup_start {
	struct dentry *dentry;
	kt_boot_ns time;
	kt_bytes size;
	kt_bytes copied;
	kt_bytes cloned;
	__u64 copied_to; /* the offset up to which `copied` is counted; 0: not known */
	struct kt_cgroups who;
	kt_open_flags flags;
	kt_dev device;
	__u16 trigger;
	__u16 layer_index;
	bool upper; /* has its metadata in the writable layer already */
	bool raced; /* another thread has copied the object up: this is not a copy-up */
};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384); /* threads inside a copy-up at one time */
	__type(key, __u64);	    /* pid_tgid */
	__type(value, struct copyup_start);
} starts SEC(".maps");

/* One copy of a program runs on a CPU at a time, so one scratch event for each suffices: 8 KiB do not fit the
 * stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, kt_copies);
	__type(key, __u32);
	__type(value, struct copyup_long_event);
} scratch SEC(".maps");

/* Zeros to wipe the last path with in one call, so that no record carries the tail of another's. */
static const char zeros[KT_PATH_BYTES + KT_NAME_BYTES];

/* The groups of programs that have a backup: each body below runs in two copies of one. */
/* clang-format off */
#define COPYUP_GROUPS(X)                                                                                     \
	X(enter) X(return) X(begun) X(spliced) X(cloned) X(target)                                           \
	X(setattr) X(setattr_end)                                                                            \
	X(rename) X(rename_end)                                                                              \
	X(link) X(link_end)                                                                                  \
	X(xattr) X(xattr_end)                                                                                \
	X(unlink) X(unlink_end)                                                                              \
	X(create) X(create_end)                                                                              \
	X(tmpfile) X(tmpfile_end)                                                                            \
	X(acl) X(acl_end)                                                                                    \
	X(chattr) X(chattr_end)                                                                              \
	X(handle) X(handle_end)
/* clang-format on */
KT_GROUPS(COPYUP_GROUPS);

static __always_inline int copyup_operation(__u32 trigger, __u32 group, __u32 copy)
{
	__u64 thread = bpf_get_current_pid_tgid();
	__u32 *known = bpf_map_lookup_elem(&operations, &thread);

	if (known && *known == trigger)
		return 0;
	kt_did(group, copy);
	if (bpf_map_update_elem(&operations, &thread, &trigger, BPF_ANY))
		kt_lost(kt_loss_map_full);
	return 0;
}

static __always_inline int copyup_operation_end(__u32 group, __u32 copy)
{
	__u64 thread = bpf_get_current_pid_tgid();

	if (!bpf_map_delete_elem(&operations, &thread))
		kt_did(group, copy);
	return 0;
}

/*
 * What notify_change() is asked to change (fs/attr.c). It adds ATTR_MODE where a chown or truncate takes the
 * set-uid bit away, so mode comes last. chown(path, -1, -1) asks for a new ctime only, and for the bits to
 * go; so does a write, with ATTR_FORCE. Until 6.1 an ACL may ask for the set-gid bit to go, and for nothing
 * else (ovl_posix_acl_xattr_set).
 */
static __always_inline __u32 copyup_setattr_trigger(struct dentry *dentry, const struct iattr *attributes)
{
	struct inode *inode = BPF_CORE_READ(dentry, d_inode);
	__u32 valid = BPF_CORE_READ(attributes, ia_valid);
	bool same = true;

	if (valid & ATTR_SIZE)
		return copyup_truncate;
	if (valid & ATTR_MODE)
		same = !((BPF_CORE_READ(attributes, ia_mode) ^ BPF_CORE_READ(inode, i_mode)) & S_IALLUGO);
	if (valid & ATTR_UID)
		same &= BPF_CORE_READ(attributes, ia_uid).val == BPF_CORE_READ(inode, i_uid).val;
	if (valid & ATTR_GID)
		same &= BPF_CORE_READ(attributes, ia_gid).val == BPF_CORE_READ(inode, i_gid).val;
	if (valid & (ATTR_UID | ATTR_GID))
		return same ? copyup_chown_same : copyup_chown;
	if (valid & ATTR_MODE) {
		if (valid & (ATTR_KILL_SUID | ATTR_KILL_SGID))
			return valid & ATTR_FORCE ? copyup_other : copyup_chown;
		return same ? copyup_chmod_same : copyup_chmod;
	}
	if (valid & (ATTR_ATIME | ATTR_MTIME))
		return copyup_utimes;
	if (valid == ATTR_KILL_SGID)
		return copyup_xattr;
	return (valid & (ATTR_CTIME | ATTR_FORCE)) == ATTR_CTIME ? copyup_chown_same : copyup_other;
}

static __always_inline int copyup_setattr(struct dentry *dentry, const struct iattr *attributes, __u32 copy)
{
	return copyup_operation(copyup_setattr_trigger(dentry, attributes), kt_backed_up_setattr, copy);
}

static __always_inline int copyup_begin(struct dentry *dentry, __u32 copy)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct copyup_target target = {.dentry = dentry};
	struct copyup_target *known = bpf_map_lookup_elem(&targets, &thread);

	if (known && known->dentry == dentry && !known->parents && !known->parents_duration)
		return 0;
	kt_did(kt_backed_up_target, copy);
	bpf_map_update_elem(&targets, &thread, &target, BPF_ANY);
	return 0;
}

static __always_inline __u16 copyup_trigger_of(__u64 thread, int flags)
{
	/*
	 * An operation copies up without flags, truncate by O_WRONLY alone (ovl_copy_up_with_data). An open
	 * has all of its own: what is left of an operation whose return was missed says nothing of it.
	 */
	__u32 *operation = flags & ~O_WRONLY ? 0 : bpf_map_lookup_elem(&operations, &thread);

	if (operation)
		return *operation;
	if (!flags)
		return copyup_other;
	return flags & O_TRUNC ? copyup_open_truncate : copyup_open_write;
}

static __always_inline void copyup_tell_overlay(const struct super_block *sb, kt_dev device, kt_boot_ns now,
						__u32 copy)
{
	struct copyup_overlay_key key = {.device = device};
	struct copyup_overlay_event *event;
	const struct dentry *upper;
	const char *upperdir;
	__u32 at = copy % kt_copies;
	__u8 one = 1;
	long bytes;

	upper = kt_overlay_upper_dentry(BPF_CORE_READ(sb, s_root, d_inode));
	if (!upper)
		return;
	key.upper = kt_file_number(BPF_CORE_READ(upper, d_inode));
	if (bpf_map_lookup_elem(&overlays, &key))
		return;
	upperdir = kt_overlay_upperdir(sb);
	event = bpf_map_lookup_elem(&overlay_scratch, &at);
	if (!upperdir || !event)
		return;
	__builtin_memset(event, 0, sizeof(*event));
	bytes = bpf_probe_read_kernel_str(event->upperdir, sizeof(event->upperdir), upperdir);
	if (bytes <= 0)
		return;
	event->time = now;
	event->device = key.device;
	event->upperdir_bytes = bytes;
	bpf_map_update_elem(&overlays, &key, &one, BPF_ANY);
	kt_output(&copyup_overlays, event, sizeof(*event));
}

static __always_inline int copyup_enter(struct dentry *dentry, int flags, __u32 copy)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct copyup_start start = {};
	const struct super_block *sb;
	struct copyup_start *known;
	bool data;

	kt_current_cgroups(&start.who);
	if (kt_excluded(&start.who))
		return 0;
	start.size = BPF_CORE_READ(dentry, d_inode, i_size);
	if (start.size < min_size_bytes)
		return 0;
	known = bpf_map_lookup_elem(&starts, &thread);
	if (known && known->dentry == dentry && copy != kt_only)
		return 0;
	if (known)
		kt_lost(kt_loss_missed_return);
	kt_did(kt_backed_up_enter, copy);
	start.dentry = dentry;
	start.flags = flags;
	start.trigger = copyup_trigger_of(thread, flags);
	start.layer_index = kt_overlay_layer(dentry);
	kt_overlay_upper(BPF_CORE_READ(dentry, d_inode), &start.upper, &data);
	start.time = bpf_ktime_get_boot_ns();
	sb = BPF_CORE_READ(dentry, d_sb);
	start.device = BPF_CORE_READ(sb, s_dev);
	copyup_tell_overlay(sb, start.device, start.time, copy);
	if (bpf_map_update_elem(&starts, &thread, &start, BPF_ANY))
		kt_lost(kt_loss_map_full);
	return 0;
}

/* `to`: the source's offset after this call, by which a backup knows that it is counted; 0 where no backup
 * is. */
static __always_inline int copyup_spliced(long bytes, __u64 to, __u32 copy)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct copyup_start *start = bpf_map_lookup_elem(&starts, &thread);

	if (!start || bytes <= 0 || (to && start->copied_to == to))
		return 0;
	kt_did(kt_backed_up_spliced, copy);
	start->copied += bytes;
	start->copied_to = to;
	return 0;
}

/* A file is cloned whole, by one call. */
static __always_inline int copyup_cloned(long bytes, __u32 copy)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct copyup_start *start = bpf_map_lookup_elem(&starts, &thread);

	if (!start || bytes <= 0 || start->cloned)
		return 0;
	kt_did(kt_backed_up_cloned, copy);
	start->cloned = bytes;
	return 0;
}

/* ovl_copy_up_start returns 1 to the loser of two threads: the other has copied the object up already. */
static __always_inline int copyup_begun(int result, __u32 copy)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct copyup_start *start = result > 0 ? bpf_map_lookup_elem(&starts, &thread) : 0;

	if (!start || start->raced)
		return 0;
	kt_did(kt_backed_up_begun, copy);
	start->raced = true;
	return 0;
}

static __always_inline int copyup_return(int result, __u32 copy)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct copyup_start *start = bpf_map_lookup_elem(&starts, &thread);
	struct copyup_target *target = bpf_map_lookup_elem(&targets, &thread);
	struct copyup_long_event *event;
	struct kt_path_walk walk;
	struct dentry *dentry;
	struct inode *inode;
	__u32 one = copy % kt_copies;
	__u64 left;
	bool upper, data;

	if (!start)
		return 0;
	kt_did(kt_backed_up_return, copy);
	if (start->raced) {
		bpf_map_delete_elem(&starts, &thread);
		return 0;
	}
	event = bpf_map_lookup_elem(&scratch, &one);
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
	event->device = start->device;
	event->pid = thread >> 32;
	event->tid = thread;
	event->flags = start->flags;
	event->error = result;
	event->trigger = start->trigger;
	event->layer_index = start->layer_index;
	event->part = copyup_whole;
	event->reserved = 0;
	if ((event->mode & S_IFMT) == S_IFREG && !result) {
		kt_overlay_upper(inode, &upper, &data);
		if (start->upper)
			event->part = copyup_data;
		else if (upper && !data)
			event->part = copyup_metadata;
	}
	event->is_parent = target && target->dentry != dentry;
	event->parents = target && !event->is_parent ? target->parents : 0;
	event->parents_duration = target && !event->is_parent ? target->parents_duration : 0;
	if (target && event->is_parent) {
		target->parents++;
		target->parents_duration += event->duration;
	}
	bpf_map_delete_elem(&starts, &thread);
	__builtin_memset(event->comm, 0, sizeof(event->comm));
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	left = event->path_bytes;
	/* clang knows that it is never more, the verifier does not */
	asm volatile("" : "+r"(left));
	if (left > sizeof(zeros))
		left = sizeof(zeros);
	bpf_probe_read_kernel(event->path, left, zeros);
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

/*
 * fentry and fexit: cheapest; need BTF of the module (5.11) and, on arm64, direct calls (6.4).
 *
 * The two at ovl_copy_up_one do the most, so they are the likeliest to be preempted, and with them what races
 * for the same files. Their backups are kprobes, which run with preemption off.
 */
KT_ENTRY_ALONE(enter, "ovl_copy_up_one", copyup_enter(dentry, flags, copy), struct dentry *parent,
	       struct dentry *dentry, int flags)
KT_KPROBE(enter_backup__kprobe, "ovl_copy_up_one", kt_backup, copyup_enter(dentry, flags, copy),
	  struct dentry *parent, struct dentry *dentry, int flags)
KT_RETURN_ALONE(return, "ovl_copy_up_one", copyup_return(result, copy), int result, struct dentry *parent,
		      struct dentry *dentry, int flags)
KT_KRETPROBE(return_backup__kprobe, "ovl_copy_up_one", kt_backup, copyup_return(result, copy), int result)

KT_RETURN(begun, "ovl_copy_up_start", copyup_begun(result, copy), int result, struct dentry *dentry,
	  int flags)

/* *ppos as do_splice_direct(in, ppos, out, opos, len, flags) left it. A pointer to a number is an argument
 * that 5.10's verifier lets nobody read, so this is for where there are backups. */
static __always_inline __u64 copyup_offset(unsigned long long *ctx)
{
	__u64 to = 0;

	bpf_probe_read_kernel(&to, sizeof(to), (void *)ctx[1]);
	return to;
}
KT_FEXIT(spliced, "do_splice_direct", copyup_spliced(ctx[6], backed_up ? copyup_offset(ctx) : 0, copy))
KT_KRETPROBE(spliced__kprobe, "do_splice_direct", kt_only, copyup_spliced(bytes, 0, copy), long bytes)

/* What overlayfs clones by: do_clone_file_range until 6.7, vfs_clone_file_range (which wrapped it) from 6.8
 * on. */
KT_BACKED_UP(cloned, fentry, "fexit/do_clone_file_range", copyup_cloned(bytes, copy), void *in,
	     long long pos_in, void *out, long long pos_out, long long length, __u32 flags, long bytes)
KT_BACKED_UP(cloned, fentry_vfs, "fexit/vfs_clone_file_range", copyup_cloned(bytes, copy), void *in,
	     long long pos_in, void *out, long long pos_out, long long length, __u32 flags, long bytes)
KT_KRETPROBE(cloned__kprobe, "do_clone_file_range", kt_only, copyup_cloned(bytes, copy), long bytes)
KT_KRETPROBE(cloned__kprobe_vfs, "vfs_clone_file_range", kt_only, copyup_cloned(bytes, copy), long bytes)

/* Runs for every open for writing and every operation, also when nothing is left to copy; once for all
 * parents. */
KT_ENTRY(target, "ovl_copy_up_flags", copyup_begin(dentry, copy), struct dentry *dentry)

/*
 * An operation that copies its objects up itself: entry says which, return forgets it. Below are all
 * functions that call ovl_copy_up and its like, of 5.10 to 7.2 (tests/kernel/test_triggers.py reads that off
 * the module); the others open files, or are called by these.
 */
#define COPYUP_OPERATION_END_AS(group, fentry, kprobe, function)                                             \
	KT_BACKED_UP(group##_end, fentry, "fexit/" function,                                                 \
		     copyup_operation_end(kt_backed_up_##group##_end, copy))                                 \
	KT_KRETPROBE(group##_end__##kprobe, function, kt_only,                                               \
		     copyup_operation_end(kt_backed_up_##group##_end, copy), int result)
#define COPYUP_OPERATION_AS(group, fentry, kprobe, function, trigger)                                        \
	KT_BACKED_UP(group, fentry, "fentry/" function,                                                      \
		     copyup_operation(trigger, kt_backed_up_##group, copy))                                  \
	KT_KPROBE(group##__##kprobe, function, kt_only,                                                      \
		  copyup_operation(trigger, kt_backed_up_##group, copy))                                     \
	COPYUP_OPERATION_END_AS(group, fentry, kprobe, function)
#define COPYUP_OPERATION_END(group, function) COPYUP_OPERATION_END_AS(group, fentry, kprobe, function)
#define COPYUP_OPERATION(group, function, trigger)                                                           \
	COPYUP_OPERATION_AS(group, fentry, kprobe, function, trigger)
/* One that has another name on older kernels. */
#define COPYUP_OPERATION_OLD(group, function, trigger)                                                       \
	COPYUP_OPERATION_AS(group, fentry_old, kprobe_old, function, trigger)

/* ovl_setattr(idmap, dentry, attributes) */
KT_FENTRY(setattr, "ovl_setattr",
	  copyup_setattr(KT_BEHIND_IDMAP(ctx[0], ctx[1]), KT_BEHIND_IDMAP(ctx[1], ctx[2]), copy))
KT_KPROBE(setattr__kprobe, "ovl_setattr", kt_only,
	  copyup_setattr(KT_BEHIND_IDMAP(PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx)),
			 KT_BEHIND_IDMAP(PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx)), copy))
COPYUP_OPERATION_END(setattr, "ovl_setattr")

COPYUP_OPERATION(rename, "ovl_rename", copyup_rename)
COPYUP_OPERATION(link, "ovl_link", copyup_link)
COPYUP_OPERATION(xattr, "ovl_xattr_set", copyup_xattr)
COPYUP_OPERATION(unlink, "ovl_do_remove", copyup_unlink)
/* 6.1 does not have it (9a87907de359): there, no overlay makes such files */
COPYUP_OPERATION(tmpfile, "ovl_tmpfile", copyup_create)
COPYUP_OPERATION(create, "ovl_create_object", copyup_create)
/* since 6.2 (0e641857322f); before, ACLs are set through ovl_xattr_set */
COPYUP_OPERATION(acl, "ovl_set_acl", copyup_xattr)
/* since 5.13 (66dbfabf10ed) */
COPYUP_OPERATION(chattr, "ovl_fileattr_set", copyup_chattr)
COPYUP_OPERATION_OLD(chattr, "ovl_ioctl_set_flags", copyup_chattr)
/* name_to_handle_at(2) and NFS servers, on overlays with nfs_export=on */
COPYUP_OPERATION(handle, "ovl_encode_fh", copyup_file_handle)

#endif
