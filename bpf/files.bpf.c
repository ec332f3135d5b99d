// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* clang-format off */
/*
 * files: counters of every operation on names and files, by cgroup, device, place and operation.
 *
 * Each operation of a user is counted once, whoever asks for it: system calls of any age, io_uring, exec
 * (docs/kernel.md). At the return of:
 *
 *   open, openat2, creat, exec      do_filp_open, which newer kernels call do_file_open: also what fails; a file that
 *                                   was made is told by FMODE_CREATED
 *   look-ups that find nothing      filename_lookup: stat, access, readlink, chdir, ...
 *   stat, fstat, statx              vfs_getattr_nosec: vfs_getattr is inlined
 *   getdents                        iterate_dir
 *   unlink, mkdir, mknod, symlink, link, rename     vfs_*; vfs_create is mknod of a regular file alone
 *   rmdir                           do_rmdir or filename_rmdir, with what security_inode_rmdir was given: 5.10 inlines
 *                                   vfs_rmdir
 *   whiteouts                       ovl_cleanup_and_whiteout, told at the end of the removal that it is part of
 *
 * overlayfs calls most of these itself, on the file system below. It does so with other rights than the thread's own,
 * by which such calls are left out (kt_is_nested).
 */
/* clang-format on */
#include "call_backups.bpf.h"
#include "cgroup_births.bpf.h"
#include "files_count.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Arguments by their places: see KT_ARGUMENT. The result is behind them. */
const volatile __u32 unlink_dir = KT_NO_PLACE;
const volatile __u32 unlink_dentry = KT_NO_PLACE;
const volatile __u32 unlink_result = KT_NO_PLACE;
const volatile __u32 mkdir_dir = KT_NO_PLACE;
const volatile __u32 mkdir_dentry = KT_NO_PLACE;
const volatile __u32 mkdir_result = KT_NO_PLACE;
const volatile bool mkdir_gives_dentry = false; /* since 6.15 */
const volatile __u32 create_dentry = KT_NO_PLACE;
const volatile __u32 create_result = KT_NO_PLACE;
const volatile __u32 mknod_dir = KT_NO_PLACE;
const volatile __u32 mknod_dentry = KT_NO_PLACE;
const volatile __u32 mknod_result = KT_NO_PLACE;
const volatile __u32 symlink_dir = KT_NO_PLACE;
const volatile __u32 symlink_dentry = KT_NO_PLACE;
const volatile __u32 symlink_result = KT_NO_PLACE;
const volatile __u32 link_dir = KT_NO_PLACE;
const volatile __u32 link_dentry = KT_NO_PLACE;
const volatile __u32 link_result = KT_NO_PLACE;

/*
 * The programs (hooks.bpf.h). Groups that count may use their `room`. fentry and fexit have backups that ask
 * kt_call_handled.
 */
#define FILES_IN_ROOM(group, call)                                                                           \
	({                                                                                                   \
		const __u32 room __attribute__((unused)) = FILES_ROOM(group, copy);                          \
                                                                                                             \
		call;                                                                                        \
	})
#define FILES_ONCE(group, call) FILES_IN_ROOM(group, kt_call_handled(kt_backed_up_##group, copy) ? 0 : call)
#define FILES_FEXIT_AS(group, hook, function, call, ...)                                                     \
	KT_BACKED_UP(group, hook, "fexit/" function, FILES_ONCE(group, call), ##__VA_ARGS__)
#define FILES_FEXIT(group, function, call, ...) FILES_FEXIT_AS(group, fentry, function, call, ##__VA_ARGS__)
#define FILES_KRETPROBE_AS(group, hook, function, call, returns)                                             \
	KT_KRETPROBE(group##__##hook, function, kt_only, FILES_IN_ROOM(group, call), returns)
#define FILES_KRETPROBE(group, function, call, returns)                                                      \
	FILES_KRETPROBE_AS(group, kprobe, function, call, returns)
/*
 * At an entry: a kretprobe has the result alone, and a kprobe remembers for it what the operation is about.
 * fexit has the arguments: its fentry is left out by user space, but for what is known at another function's
 * entry.
 */
#define FILES_FENTRY(group, function, call, ...)                                                             \
	KT_FENTRY(group, function, kt_call_handled(kt_backed_up_##group, copy) ? 0 : call, ##__VA_ARGS__)
#define FILES_ENTRY(group, function, call, ...)                                                              \
	FILES_FENTRY(group, function, call, ##__VA_ARGS__)                                                   \
	KT_KPROBE(group##__kprobe, function, kt_only, call, ##__VA_ARGS__)

/* An operation that a thread is in: what its return needs of the entry. */
struct files_start {
	void *object; /* mount, or the directory's inode */
	void *dentry; /* the file's, or the directory's */
};
#define files_whiting_out 64 /* beside the operations: a removal, when overlayfs has left a whiteout */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768); /* threads in operations at one time */
	__type(key, __u64);	    /* pid_tgid | operation << 56 */
	__type(value, struct files_start);
} starts SEC(".maps");

static __always_inline int files_begin(__u32 operation, const void *object, const void *dentry)
{
	__u64 thread = bpf_get_current_pid_tgid() | (__u64)operation << 56;
	struct files_start start = {.object = (void *)object, .dentry = (void *)dentry};

	if (bpf_map_update_elem(&starts, &thread, &start, BPF_ANY))
		kt_lost(kt_loss_map_full);
	return 0;
}

static __always_inline bool files_end(__u32 operation, struct files_start *begun)
{
	__u64 thread = bpf_get_current_pid_tgid() | (__u64)operation << 56;
	struct files_start *start = bpf_map_lookup_elem(&starts, &thread);

	if (!start)
		return false;
	begun->object = start->object;
	begun->dentry = start->dentry;
	bpf_map_delete_elem(&starts, &thread);
	return true;
}

/* -- open
 * ----------------------------------------------------------------------------------------------------------
 */

static __always_inline int files_opened(struct file *file, __u32 room, const bool typed)
{
	__u32 operation = files_open;
	int error;

	if ((__u64)file >= (__u64)-4095) {
		error = files_number(file);
		if (!files_is_over(error))
			return 0;
		return error == -ENOENT ? files_nowhere(files_open_missing, 0, room)
					: files_nowhere(files_open, error, room);
	}
	if (FILES_READ(typed, file, f_mode) & FMODE_CREATED)
		operation = files_create;
	else if (FILES_READ(typed, file, f_flags) & __O_TMPFILE)
		operation = files_tmpfile;
	return files_through(operation, 0, FILES_READ(typed, file, f_path.mnt),
			     FILES_READ(typed, file, f_path.dentry), false, room, typed);
}

FILES_FEXIT(open, "do_filp_open", files_opened(file, room, true), int descriptor, void *name, void *how,
	    struct file *file)
FILES_FEXIT_AS(open, fentry_file, "do_file_open", files_opened(file, room, true), int descriptor, void *name,
	       void *how, struct file *file)
FILES_KRETPROBE(open, "do_filp_open", files_opened(file, room, false), struct file *file)
FILES_KRETPROBE_AS(open, kprobe_file, "do_file_open", files_opened(file, room, false), struct file *file)

/* -- look-ups
 * ------------------------------------------------------------------------------------------------------ */

/* Not kt_is_nested: access(2) looks with other rights before 6.8. */
#define files_looked_up(result) ((result) == -ENOENT ? files_nowhere(files_lookup_missing, 0, room) : 0)
KT_BACKED_UP(lookup, fentry, "fexit/filename_lookup",
	     result != -ENOENT ? 0 : FILES_ONCE(lookup, files_looked_up(result)), int descriptor, void *name,
	     __u32 flags, void *path, void *root, int result)
FILES_KRETPROBE(lookup, "filename_lookup", files_looked_up(result), int result)

/* -- stat and directories
 * ------------------------------------------------------------------------------------------ */

static __always_inline int files_read(__u32 operation, const struct path *path, int result, __u32 room)
{
	if (!files_is_over(result) || kt_is_nested())
		return 0;
	return files_through(operation, result, path->mnt, path->dentry, operation == files_list, room, true);
}

static __always_inline int files_read_begin(__u32 operation, const struct path *path)
{
	return kt_is_nested() ? 0
			      : files_begin(operation, BPF_CORE_READ(path, mnt), BPF_CORE_READ(path, dentry));
}

static __always_inline int files_read_return(__u32 operation, int result, __u32 room)
{
	struct files_start begun = {};

	if (kt_is_nested() || !files_end(operation, &begun) || !files_is_over(result))
		return 0;
	return files_through(operation, result, begun.object, begun.dentry, operation == files_list, room,
			     false);
}

FILES_FEXIT(stat, "vfs_getattr_nosec", files_read(files_stat, path, result, room), const struct path *path,
	    void *status, __u32 mask, __u32 flags, int result)
FILES_ENTRY(stat_begin, "vfs_getattr_nosec", files_read_begin(files_stat, path), const struct path *path)
FILES_KRETPROBE(stat, "vfs_getattr_nosec", files_read_return(files_stat, result, room), int result)
FILES_FEXIT(list, "iterate_dir", files_read(files_list, &file->f_path, result, room), struct file *file,
	    void *context, int result)
FILES_ENTRY(list_begin, "iterate_dir", files_read_begin(files_list, &file->f_path), struct file *file)
FILES_KRETPROBE(list, "iterate_dir", files_read_return(files_list, result, room), int result)

/* -- names
 * ---------------------------------------------------------------------------------------------------------
 */

/* A removal or a renaming on an overlay has left a whiteout, which is counted with it. */
static __always_inline int files_whited_out(struct inode *dir, struct dentry *directory, __u32 room,
					    const bool typed)
{
	struct super_block *sb = FILES_READ(typed, dir, i_sb);
	struct files_start begun;

	if (FILES_READ(typed, sb, s_magic) == OVERLAYFS_SUPER_MAGIC && files_end(files_whiting_out, &begun))
		files_below(files_whiteout, 0, dir, directory, room, typed);
	return 0;
}

static __always_inline int files_named(__u32 operation, struct inode *dir, struct dentry *directory,
				       int result, __u32 room, const bool typed)
{
	if (!dir || !files_is_over(result))
		return 0;
	files_below(operation, result, dir, directory, room, typed);
	if (operation == files_unlink || operation == files_rmdir || operation == files_rename)
		files_whited_out(dir, directory, room, typed);
	return 0;
}

static __always_inline int files_named_return(__u32 operation, int result, __u32 room)
{
	struct files_start begun = {};

	if (kt_is_nested() || !files_end(operation, &begun))
		return 0;
	return files_named(operation, begun.object, begun.dentry, result, room, false);
}

static __always_inline int files_named_begin(__u32 operation, struct inode *dir, struct dentry *dentry)
{
	struct dentry *directory = BPF_CORE_READ(dentry, d_parent);

	if (kt_is_nested())
		return 0;
	return files_begin(operation, dir ? dir : BPF_CORE_READ(directory, d_inode), directory);
}

/* The result of a call: an errno, or a pointer that may be one. */
static __always_inline int files_result(__u64 result, bool is_pointer)
{
	if (is_pointer)
		return result >= (__u64)-4095 ? (int)files_number((void *)result) : 0;
	return (int)result;
}

/* Of a kprobe where the kernel's BTF does not tell the place: the entry as it was from 5.12 to 6.14, or
 * before. */
#define FILES_ENTRY_AT(ctx, place, one, next)                                                                \
	((place) == KT_NO_PLACE ? KT_BEHIND_IDMAP(PT_REGS_PARM##one(ctx), PT_REGS_PARM##next(ctx))           \
				: KT_REGISTER_ARGUMENT(ctx, place))
#define FILES_NAMED(group, function, operation, dir_place, dentry_place, result_place, is_pointer, one,      \
		    next)                                                                                    \
	FILES_FEXIT(group, function, ({                                                                      \
			    struct dentry *dentry = KT_ARGUMENT(ctx, dentry_place);                          \
			    struct inode *dir;                                                               \
			    int result = files_result((__u64)KT_ARGUMENT(ctx, result_place), is_pointer);    \
                                                                                                             \
			    if ((dir_place) == KT_NO_PLACE)                                                  \
				    dir = dentry->d_parent->d_inode;                                         \
			    else                                                                             \
				    dir = KT_ARGUMENT(ctx, dir_place);                                       \
			    kt_is_nested()                                                                   \
				? 0                                                                          \
				: files_named(operation, dir, dentry->d_parent, result, room, true);         \
		    }))                                                                                      \
	FILES_FENTRY(                                                                                        \
	    group##_begin, function,                                                                         \
	    files_named_begin(operation, KT_ARGUMENT(ctx, dir_place), KT_ARGUMENT(ctx, dentry_place)))       \
	KT_KPROBE(group##_begin__kprobe, function, kt_only,                                                  \
		  files_named_begin(operation, KT_REGISTER_ARGUMENT(ctx, dir_place),                         \
				    FILES_ENTRY_AT(ctx, dentry_place, one, next)))                           \
	FILES_KRETPROBE(group, function,                                                                     \
			files_named_return(operation, files_result(result, is_pointer), room), __u64 result)

FILES_NAMED(unlink, "vfs_unlink", files_unlink, unlink_dir, unlink_dentry, unlink_result, false, 2, 3)
FILES_NAMED(mkdir, "vfs_mkdir", files_mkdir, mkdir_dir, mkdir_dentry, mkdir_result, mkdir_gives_dentry, 2, 3)
FILES_NAMED(create, "vfs_create", files_create, KT_NO_PLACE, create_dentry, create_result, false, 2, 3)
FILES_NAMED(mknod, "vfs_mknod", files_mknod, mknod_dir, mknod_dentry, mknod_result, false, 2, 3)
FILES_NAMED(symlink, "vfs_symlink", files_symlink, symlink_dir, symlink_dentry, symlink_result, false, 2, 3)
FILES_NAMED(link, "vfs_link", files_link, link_dir, link_dentry, link_result, false, 3, 4)

/* -- rmdir
 * ---------------------------------------------------------------------------------------------------------
 */

FILES_ENTRY(rmdir_begin, "security_inode_rmdir", files_named_begin(files_rmdir, dir, dentry),
	    struct inode *dir, struct dentry *dentry)
FILES_FEXIT(rmdir, "do_rmdir", files_named_return(files_rmdir, (int)result, room), int descriptor, void *name,
	    __u64 result)
FILES_FEXIT_AS(rmdir, fentry_filename, "filename_rmdir", files_named_return(files_rmdir, (int)result, room),
	       int descriptor, void *name, __u64 result)
FILES_KRETPROBE(rmdir, "do_rmdir", files_named_return(files_rmdir, result, room), int result)
FILES_KRETPROBE_AS(rmdir, kprobe_filename, "filename_rmdir", files_named_return(files_rmdir, result, room),
		   int result)

/* -- rename
 * -------------------------------------------------------------------------------------------------------- */

/* The entry that was renamed: where it is now, or where it still is. */
static __always_inline int files_renamed(struct dentry *dentry, int result, __u32 room)
{
	return kt_is_nested() ? 0
			      : files_named(files_rename, dentry->d_parent->d_inode, dentry->d_parent, result,
					    room, true);
}

static __always_inline int files_rename_end(unsigned long long *ctx, __u32 room)
{
	struct renamedata *renamed;

	if (bpf_core_type_exists(struct renamedata)) {
		renamed = (void *)KT_FROM(ctx[0]);
		return files_renamed(renamed->old_dentry, (int)KT_FROM(ctx[1]), room);
	}
	return files_renamed((void *)KT_FROM(ctx[1]), (int)KT_FROM(ctx[6]), room);
}

/* A kretprobe reads the directory when it is over, by the entry. */
static __always_inline int files_rename_begin(__u64 first, __u64 second)
{
	const struct renamedata *renamed = (void *)first;

	if (kt_is_nested())
		return 0;
	if (bpf_core_type_exists(struct renamedata))
		second = (__u64)BPF_CORE_READ(renamed, old_dentry);
	return files_begin(files_rename, 0, (void *)second);
}

static __always_inline int files_rename_return(int result, __u32 room)
{
	struct files_start begun = {};
	struct dentry *dentry, *directory;

	if (kt_is_nested() || !files_end(files_rename, &begun))
		return 0;
	dentry = begun.dentry;
	directory = BPF_CORE_READ(dentry, d_parent);
	return files_named(files_rename, BPF_CORE_READ(directory, d_inode), directory, result, room, false);
}

FILES_FEXIT(rename, "vfs_rename", files_rename_end(ctx, room))
FILES_FENTRY(rename_begin, "vfs_rename",
	     files_rename_begin(KT_FROM(ctx[0]),
				bpf_core_type_exists(struct renamedata) ? 0 : KT_FROM(ctx[1])))
KT_KPROBE(rename_begin__kprobe, "vfs_rename", kt_only,
	  files_rename_begin(KT_FROM(PT_REGS_PARM1(ctx)), KT_FROM(PT_REGS_PARM2(ctx))))
FILES_KRETPROBE(rename, "vfs_rename", files_rename_return(result, room), int result)

/* -- whiteouts
 * ----------------------------------------------------------------------------------------------------- */

KT_FEXIT(whiteout, "ovl_cleanup_and_whiteout",
	 kt_call_handled(kt_backed_up_whiteout, copy) || result ? 0 : files_begin(files_whiting_out, 0, 0),
	 void *first, void *second, void *third, int result)
KT_KRETPROBE(whiteout__kprobe, "ovl_cleanup_and_whiteout", kt_only,
	     result ? 0 : files_begin(files_whiting_out, 0, 0), int result)
