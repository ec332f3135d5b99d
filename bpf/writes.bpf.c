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
 *   fsync, msync       vfs_fsync_range; of directories too
 *   fsync by aio       aio_fsync
 *   sync_file_range    the system call
 *   mmap               fault_dirty_shared_page: a page of a shared file mapping becomes dirty
 *
 * overlayfs calls the last but two itself, on the file below: that file has FMODE_NOACCOUNT (since 4.19,
 * d3b1084dfd36), and is left out by that. Copy-ups fsync what they made, through a mount in no namespace.
 *
 * Here are the operations with their hooks. writes_key.bpf.h has what is counted, place.bpf.h where it
 * lands, writes_count.bpf.h the counting, writes_call.bpf.h what leads from an entry to its return.
 */
/* clang-format on */
#include "call_backups.bpf.h"
#include "cgroup_births.bpf.h"
#include "writes_call.bpf.h"
#include "writes_count.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

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

/*
 * An operation: its programs at the return, and at the entry (GROUP_begin). fexit has the arguments beside
 * the result: where it attaches, it needs nothing of the entry but the time, and that only with latency or
 * events (user space leaves GROUP_begin__fentry out otherwise). A kretprobe has the result alone: the kprobe
 * at the entry remembers what the operation is about, which is `object` here, and since when, hence its
 * `duration`.
 */
#define WRITES_RETURN(group, function, operation, call, returns)                                             \
	KT_KRETPROBE(group##__kprobe, function, kt_only,                                                     \
		     WRITES_IN_ROOM(group, ({                                                                \
					    kt_duration_ns duration = 0;                                     \
					    void *object = writes_object(operation, &duration);              \
                                                                                                             \
					    object ? (call) : 0;                                             \
				    })),                                                                     \
		     returns)
#define WRITES_OPERATION(group, function, operation, about, at_fexit, at_kretprobe, returns, ...)            \
	WRITES_FEXIT(group, function, at_fexit, ##__VA_ARGS__, returns)                                      \
	WRITES_FENTRY(group##_begin, function, writes_begin(operation, 0, false), ##__VA_ARGS__)             \
	WRITES_KPROBE(group##_begin, function, writes_begin(operation, about, false), ##__VA_ARGS__)         \
	WRITES_RETURN(group, function, operation, at_kretprobe, returns)

/* What is at hand at the entry alone: a descriptor may be another file's at the return. */
#define WRITES_CALL(group, function, operation, about, at_return, returns, ...)                              \
	WRITES_FEXIT(group, function, ({                                                                     \
			     kt_duration_ns duration = 0;                                                    \
			     void *object = writes_object(operation, &duration);                             \
                                                                                                             \
			     object ? (at_return) : 0;                                                       \
		     }),                                                                                     \
		     ##__VA_ARGS__, returns)                                                                 \
	WRITES_FENTRY(group##_begin, function, writes_begin(operation, about, false), ##__VA_ARGS__)         \
	WRITES_KPROBE(group##_begin, function, writes_begin(operation, about, false), ##__VA_ARGS__)         \
	WRITES_RETURN(group, function, operation, at_return, returns)

/*
 * On a file, which is argument number `place`: kprobes have five by name at most, and these need but one.
 * What is `nested` in an operation of a stacking file system is not counted.
 */
#define WRITES_FILE_BY(group, function, operation, place, nested, at_fexit, at_kretprobe, returns, ...)      \
	WRITES_FEXIT(group, function, at_fexit, ##__VA_ARGS__, returns)                                      \
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
	WRITES_RETURN(group, function, operation, at_kretprobe, returns)
#define WRITES_FILE(group, function, operation, place, nested, returns, ...)                                 \
	WRITES_FILE_BY(group, function, operation, place, nested,                                            \
		       (nested) ? 0 : writes_file_end(operation, file, result, room),                        \
		       writes_count_file(operation, object, result, duration, room, false), returns,         \
		       ##__VA_ARGS__)

static __always_inline bool writes_is_nested(const struct file *file)
{
	return BPF_CORE_READ(file, f_mode) & FMODE_NOACCOUNT;
}

static __always_inline int writes_file_end(__u32 operation, struct file *file, __s64 result, __u32 room)
{
	return writes_count_file(operation, file, result, writes_duration(operation), room, true);
}

WRITES_FILE(write, "vfs_write", writes_write, 1, false, __s64 result, struct file *file, const char *buffer,
	    __u64 count, void *position)
WRITES_FILE(writev, "vfs_writev", writes_writev, 1, false, __s64 result, struct file *file,
	    const void *vector, __u64 length, void *position, int flags)
WRITES_FILE(splice, "do_splice", writes_splice, 3, false, __s64 result, struct file *in, void *from,
	    struct file *file, void *to, __u64 length, __u32 flags)

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

WRITES_CALL(sendfile, "do_sendfile", writes_sendfile, writes_file_of(out),
	    writes_count_file(writes_sendfile, object, result, duration, room, false), __s64 result, int out,
	    int in, void *position, __u64 count, __u64 most)

WRITES_FILE(copyrange, "vfs_copy_file_range", writes_copy_file_range, 3, writes_is_nested(file), __s64 result,
	    struct file *in, __u64 from, struct file *file, __u64 to, __u64 length, __u32 flags)
WRITES_FILE(fallocate, "vfs_fallocate", writes_fallocate, 1, writes_is_nested(file), int result,
	    struct file *file, int mode, __u64 offset, __u64 length)

static __always_inline int writes_fsync_end(struct file *file, __s64 result, kt_duration_ns duration,
					    __u32 room)
{
	struct writes_operand operand = {.result = result, .duration = duration, .room = room};
	struct kt_file_path path;
	struct kt_cgroups who;
	struct dentry *dentry;

	kt_user_path(&path, file);
	dentry = path.dentry;
	/* what a copy-up has made is synced through a mount of overlayfs' own */
	if (!kt_mount_namespace(kt_mount_of(path.mnt)))
		return 0;
	operand.dentry = dentry;
	writes_describe(&operand, path.mnt, BPF_CORE_READ(dentry, d_inode));
	if (operand.type != S_IFDIR && !writes_is_counted(operand.type))
		return 0;
	kt_current_cgroups(&who);
	return writes_count(writes_fsync, &operand, &who);
}

/*
 * A stacking file system syncs the file below in vfs_fsync_range of its own: through a mount in no namespace,
 * where it is a directory. msync(2) begins at the file that the mapping holds, which of an overlay is the one
 * below.
 */
static __always_inline bool writes_is_nested_sync(const struct file *file)
{
	if (!writes_is_nested(file) && kt_mount_namespace(kt_mount_of(BPF_CORE_READ(file, f_path.mnt))))
		return false;
	return !writes_is_in(writes_msyncing);
}

/* What vfs_fsync_range counts is not counted again by the system call around it. */
static __always_inline void writes_passed_fsync(void)
{
	writes_begin(writes_syncing, 0, true);
}

static __always_inline int writes_range_synced(struct file *file, __s64 result, __u32 room)
{
	if (writes_is_nested_sync(file))
		return 0;
	writes_passed_fsync();
	return writes_fsync_end(file, result, writes_duration(writes_fsync), room);
}

static __always_inline int writes_range_return(struct file *file, __s64 result, kt_duration_ns duration,
					       __u32 room)
{
	writes_passed_fsync();
	return writes_fsync_end(file, result, duration, room);
}

WRITES_FILE_BY(fsync, "vfs_fsync_range", writes_fsync, 1, writes_is_nested_sync(file),
	       writes_range_synced(file, result, room), writes_range_return(object, result, duration, room),
	       int result, struct file *file, __u64 start, __u64 end, int datasync)

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

/* The result is an int, whatever the register holds above it. */
static __always_inline int writes_path_return(const struct path *given, int result, kt_duration_ns duration,
					      __u32 room)
{
	return writes_path_end(given, result, duration, room);
}

WRITES_OPERATION(truncatepath, "vfs_truncate", writes_truncate, path,
		 writes_path_end(path, (int)result, writes_duration(writes_truncate), room),
		 writes_path_return(object, result, duration, room), __s64 result, const struct path *path,
		 __u64 length)

static __always_inline int writes_truncate_end(unsigned long long *ctx, __u32 room)
{
	struct file *file = KT_BEHIND_IDMAP(ctx[3], ctx[4]);
	int result = (__u64)KT_BEHIND_IDMAP(ctx[4], ctx[5]);

	/* without a file it is truncate(2): vfs_truncate has the path */
	return file ? writes_count_file(writes_truncate, file, result, writes_duration(writes_other), room,
					false)
		    : 0;
}

/* do_truncate inside vfs_truncate must not end what that began: an operation of its own. */
WRITES_FEXIT(truncate, "do_truncate", writes_truncate_end(ctx, room))
WRITES_FENTRY(truncate_begin, "do_truncate", writes_begin(writes_other, 0, false))
WRITES_KPROBE(truncate_begin, "do_truncate",
	      writes_begin(writes_other, KT_BEHIND_IDMAP(PT_REGS_PARM4(ctx), PT_REGS_PARM5(ctx)), false))
WRITES_RETURN(truncate, "do_truncate", writes_other,
	      writes_count_file(writes_truncate, object, result, duration, room, false), int result)

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

WRITES_OPERATION(iouring, "io_write", writes_io_uring, request,
		 writes_io_uring_end(request, result, writes_duration(writes_io_uring), room),
		 writes_io_uring_end(object, result, duration, room), int result, void *request, __u32 flags)

static __always_inline int writes_aio_begin(const void *request)
{
	struct writes_request begun = {};

	begun.file = BPF_CORE_READ((struct kiocb *)request, ki_filp);
	begun.time = bpf_ktime_get_boot_ns();
	begun.thread = bpf_get_current_pid_tgid();
	kt_current_cgroups(&begun.who);
	if (!bpf_map_update_elem(&requests, &request, &begun, BPF_NOEXIST))
		return 0;
	/* its memory is another request's now, whose end was not seen */
	kt_lost(bpf_map_update_elem(&requests, &request, &begun, BPF_EXIST) ? kt_loss_map_full
									    : kt_loss_missed_return);
	return 0;
}

static __always_inline int writes_aio_end(const void *request, __s64 result, __u32 room, __u32 group,
					  __u32 copy)
{
	struct writes_request *begun = bpf_map_lookup_elem(&requests, &request);
	struct writes_operand operand = {.result = result, .room = room};
	struct kt_cgroups who;
	struct file *file;

	if (!begun)
		return 0;
	file = begun->file;
	who = begun->who;
	operand.duration = bpf_ktime_get_boot_ns() - begun->time;
	operand.thread = begun->thread;
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

/* aio_write tells what was refused before it was on its way, aio_complete_rw the rest, at its entry. */
WRITES_FENTRY(aio_begin, "aio_write", writes_aio_begin(request), void *request)
WRITES_FEXIT(aio, "aio_write", result < 0 ? writes_aio_end(request, result, room, 0, kt_only) : 0,
	     void *request, void *iocb, bool vectored, bool compat, int result)
WRITES_KPROBE(aio_begin, "aio_write", writes_aio_enter(request), void *request)
WRITES_RETURN(aio, "aio_write", writes_aio, result < 0 ? writes_aio_end(object, result, room, 0, kt_only) : 0,
	      int result)
KT_ENTRY(aio_end, "aio_complete_rw",
	 writes_aio_end(request, result, WRITES_ROOM(aio_end, copy), kt_backed_up_aio_end, copy),
	 void *request, __s64 result)

/*
 * fsync(2) and fdatasync(2) are in one file with vfs_fsync_range, and compilers take its body into one or
 * both of them (6.1: into fdatasync): what did not pass vfs_fsync_range is counted at the return of the
 * system call.
 */
#define WRITES_SYNC(group, function, operation, argument)                                                    \
	WRITES_CALL(group, function, operation, writes_file_of(argument(registers)),                         \
		    writes_fsync_end(object, result, duration, room), __s64 result,                          \
		    struct pt_regs *registers)
WRITES_SYNC(fsynced, KT_SYSCALL(fsync), writes_syncing, kt_syscall_argument)
WRITES_SYNC(fdatasynced, KT_SYSCALL(fdatasync), writes_syncing, kt_syscall_argument)
WRITES_SYNC(fsynced32, KT_SYSCALL32(fsync), writes_syncing, kt_syscall32_argument)
WRITES_SYNC(fdatasynced32, KT_SYSCALL32(fdatasync), writes_syncing, kt_syscall32_argument)
/* does not pass vfs_fsync_range */
WRITES_SYNC(rangesynced, KT_SYSCALL(sync_file_range), writes_range_syncing, kt_syscall_argument)
WRITES_SYNC(rangesynced32, KT_SYSCALL32(ia32_sync_file_range), writes_range_syncing, kt_syscall32_argument)
/* is counted in vfs_fsync_range, which asks whether it is in this */
WRITES_CALL(msynced, KT_SYSCALL(msync), writes_msyncing, registers, 0, __s64 result,
	    struct pt_regs *registers)
WRITES_CALL(msynced32, KT_SYSCALL32(msync), writes_msyncing, registers, 0, __s64 result,
	    struct pt_regs *registers)

/*
 * An fsync by aio (IOCB_CMD_FSYNC, IOCB_CMD_FDSYNC) is queued here, for a worker of the kernel that calls
 * vfs_fsync: counted as asked for, for whom asks, without the time that it will take. Every kind of aio
 * request begins with its file (union in struct aio_kiocb, fs/aio.c).
 */
WRITES_CALL(aiosynced, "aio_fsync", writes_aio_syncing, BPF_CORE_READ((struct kiocb *)request, ki_filp),
	    writes_fsync_end(object, result, writes_no_duration, room), int result, void *request)

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

WRITES_FENTRY(mmap, "fault_dirty_shared_page", writes_page_dirtied(fault, room), struct vm_fault *fault)
WRITES_KPROBE(mmap, "fault_dirty_shared_page", writes_page_dirtied(fault, room), struct vm_fault *fault)

/* A file that was told by its path has another now (with by_file alone). */
static __always_inline int writes_renamed(struct dentry *dentry, int result, __u32 room)
{
	struct kt_told_key key = {};
	struct inode *inode;

	if (result || !dentry)
		return 0;
	inode = BPF_CORE_READ(dentry, d_inode);
	key.number = kt_file_number(inode) ^ kt_upper_generation(inode);
	key.device = BPF_CORE_READ(dentry, d_sb, s_dev);
	if (bpf_map_delete_elem(&told, &key))
		return 0;
	return kt_tell_place(key.number, key.device, (__u64)dentry, room);
}

static __always_inline int writes_rename_begin(struct dentry *dentry)
{
	return writes_begin(BPF_CORE_READ(dentry, d_sb, s_magic) == OVERLAYFS_SUPER_MAGIC
				? writes_renaming_over
				: writes_renaming,
			    dentry, false);
}

static __always_inline int writes_rename_enter(unsigned long long *ctx)
{
	__u64 dentry;

	if (bpf_core_type_exists(struct renamedata)) {
		dentry = ctx[0];
		asm volatile("" : "+r"(dentry));
		return writes_rename_begin(BPF_CORE_READ((struct renamedata *)dentry, old_dentry));
	}
	dentry = ctx[1];
	asm volatile("" : "+r"(dentry));
	return writes_rename_begin((void *)dentry);
}

static __always_inline int writes_rename_enter_in(struct pt_regs *ctx)
{
	__u64 first = PT_REGS_PARM1(ctx), second = PT_REGS_PARM2(ctx);

	asm volatile("" : "+r"(first), "+r"(second));
	if (bpf_core_type_exists(struct renamedata))
		return writes_rename_begin(BPF_CORE_READ((struct renamedata *)first, old_dentry));
	return writes_rename_begin((void *)second);
}

/* The one below, which an overlay's began, ends first. */
static __always_inline int writes_rename_return(int result, __u32 room)
{
	kt_duration_ns duration;
	void *dentry = writes_object(writes_renaming, &duration);

	if (!dentry)
		dentry = writes_object(writes_renaming_over, &duration);
	return writes_renamed(dentry, result, room);
}

/* The result is behind the arguments, which are one or six. */
static __always_inline int writes_rename_end(unsigned long long *ctx, __u32 room)
{
	__u64 result;

	if (bpf_core_type_exists(struct renamedata)) {
		result = ctx[1];
		asm volatile("" : "+r"(result));
	} else {
		result = ctx[6];
		asm volatile("" : "+r"(result));
	}
	return writes_rename_return((int)result, room);
}

WRITES_FENTRY(renamed_begin, "vfs_rename", writes_rename_enter(ctx))
WRITES_KPROBE(renamed_begin, "vfs_rename", writes_rename_enter_in(ctx))
WRITES_FEXIT(renamed, "vfs_rename", writes_rename_end(ctx, room))
KT_KRETPROBE(renamed__kprobe, "vfs_rename", kt_only,
	     WRITES_IN_ROOM(renamed, writes_rename_return(result, room)), int result)
