/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What changed between kernels, one block each. CO-RE takes the branch that the running kernel's BTF has;
 * none of these asks for a version.
 */
#ifndef KT_DRIFT_BPF_H
#define KT_DRIFT_BPF_H

#include "kernel.bpf.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

/*
 * inode.i_ino was unsigned long, and is u64 since 7.1. Both are eight bytes on the 64-bit machines kubetrace
 * runs on; the flavoured struct lets CO-RE match either type.
 */
struct inode___u64 {
	__u64 i_ino;
} __attribute__((preserve_access_index));

static __always_inline __u64 kt_inode_number(const struct inode *inode)
{
	if (bpf_core_field_size(inode->i_ino) == sizeof(__u64))
		return BPF_CORE_READ((const struct inode___u64 *)inode, i_ino);
	return BPF_CORE_READ(inode, i_ino);
}

/*
 * Inode operations have a leading argument since idmapped mounts (549c7297717c, 5.12): the user namespace of
 * the mount (vfsmount.mnt_userns, a6435940b62f), since 6.3 its mnt_idmap. (struct renamedata, of the same
 * series, says nothing: 5.10.220 got it for nfsd alone.)
 */
struct vfsmount___idmapped {
	void *mnt_userns;
} __attribute__((preserve_access_index));
struct vfsmount___idmap {
	void *mnt_idmap;
} __attribute__((preserve_access_index));

static __always_inline bool kt_inode_operations_are_idmapped(void)
{
	return bpf_core_field_exists(((struct vfsmount___idmapped *)0)->mnt_userns) ||
	       bpf_core_field_exists(((struct vfsmount___idmap *)0)->mnt_idmap);
}

/* An argument that is at `one` place or, behind that leading one, at the `next`; for all hooks. Without asm
 * clang computes an address in ctx, which the verifier refuses. */
#define KT_BEHIND_IDMAP(one, next)                                                                           \
	({                                                                                                   \
		__u64 argument;                                                                              \
                                                                                                             \
		if (kt_inode_operations_are_idmapped()) {                                                    \
			argument = (next);                                                                   \
			asm volatile("" : "+r"(argument));                                                   \
		} else {                                                                                     \
			argument = (one);                                                                    \
			asm volatile("" : "+r"(argument));                                                   \
		}                                                                                            \
		(void *)argument;                                                                            \
	})

/*
 * What an io_uring request came to: in io_kiocb.cqe since 5.19 (cef216fc32d7), in io_kiocb.result before,
 * which Debian's 5.10 has too (its io_uring is that of 5.15). Holds the requested length while the request is
 * under way.
 */
struct io_kiocb___result {
	__u32 result;
} __attribute__((preserve_access_index));

static __always_inline __s32 kt_io_uring_result(const void *request)
{
	if (bpf_core_field_exists(((struct io_kiocb *)0)->cqe))
		return BPF_CORE_READ((const struct io_kiocb *)request, cqe.res);
	return BPF_CORE_READ((const struct io_kiocb___result *)request, result);
}

/*
 * vfs_rename(old_dir, old_dentry, new_dir, new_dentry, delegated, flags) became vfs_rename(struct renamedata
 * *) in 5.12 (9fe61450972d), and in stable kernels with the type.
 */
struct renamedata {
	struct dentry *old_dentry;
	unsigned int flags;
} __attribute__((preserve_access_index));

/* The function of a syscall, which finds its arguments in the registers that its own first argument points
 * to. */
#if defined(__TARGET_ARCH_x86)
#define KT_SYSCALL(name)   "__x64_sys_" #name
#define KT_SYSCALL32(name) "__ia32_sys_" #name
#else
#define KT_SYSCALL(name)   "__arm64_sys_" #name
#define KT_SYSCALL32(name) "__arm64_compat_sys_" #name /* there are few: most are those of 64 bits */
#endif

static __always_inline __u64 kt_syscall_argument(const void *registers)
{
#if defined(__TARGET_ARCH_x86)
	return BPF_CORE_READ((const struct pt_regs *)registers, di);
#else
	return BPF_CORE_READ((const struct user_pt_regs *)registers, regs[0]);
#endif
}

/* The same of a 32-bit program. */
static __always_inline __u32 kt_syscall32_argument(const void *registers)
{
#if defined(__TARGET_ARCH_x86)
	return BPF_CORE_READ((const struct pt_regs *)registers, bx);
#else
	return BPF_CORE_READ((const struct user_pt_regs *)registers, regs[0]);
#endif
}

/*
 * Number of a mount: unique in a boot since 6.8 (98d2b43081972). Before that mnt_id is given again at once,
 * and so are the device numbers of tmpfs and overlays. Made up there from what is mounted (device and `root`,
 * an inode's number and generation) and the number of the namespace, which is not given again
 * (mnt_namespace.seq, 8823c079ba71, 3.8); in the node's own, which outlives its mounts, also from what it is
 * mounted on. What is mounted twice in one namespace of a container is one mount then: all that is written
 * there lands alike.
 */
struct mount___unique {
	__u64 mnt_id_unique;
} __attribute__((preserve_access_index));
struct mnt_namespace___numbered {
	__u64 seq;
} __attribute__((preserve_access_index));
#define KT_MIX 0x9e3779b97f4a7c15ULL /* 2^64 / the golden ratio */

static __always_inline __u64 kt_file_number(const struct inode *inode)
{
	return kt_inode_number(inode) ^ (__u64)BPF_CORE_READ(inode, i_generation) << 32;
}

static __always_inline bool kt_mounts_have_numbers(void)
{
	return bpf_core_field_exists(((struct mount___unique *)0)->mnt_id_unique);
}

/* Is not given again; the inode number of the namespace is, where the kernel has no such number. */
static __always_inline __u64 kt_namespace_number(const struct mnt_namespace *namespace)
{
	if (bpf_core_field_exists(((struct mnt_namespace___numbered *)0)->seq))
		return BPF_CORE_READ((const struct mnt_namespace___numbered *)namespace, seq);
	return 0;
}

static __always_inline __u64 kt_mount_number(const struct mount *mount, const struct mnt_namespace *namespace,
					     __u32 device, __u64 root, bool in_node)
{
	__u64 number;

	if (kt_mounts_have_numbers())
		return BPF_CORE_READ((const struct mount___unique *)mount, mnt_id_unique);
	number = (root * KT_MIX + device) * KT_MIX;
	number ^= kt_namespace_number(namespace);
	if (in_node)
		number ^= kt_file_number(BPF_CORE_READ(mount, mnt_mountpoint, d_inode)) * KT_MIX << 1;
	return number;
}

/*
 * One of the mounts of a file system; 0: it has none. A list of struct list_head until 6.17, a chain of
 * mounts since (struct mount.mnt_next_for_sb).
 */
struct list_head {
	void *next;
} __attribute__((preserve_access_index));
struct mount___listed {
	struct list_head mnt_instance;
} __attribute__((preserve_access_index));
struct super_block___listed {
	struct list_head s_mounts;
} __attribute__((preserve_access_index));
struct mount___chained {
	struct mount *mnt_next_for_sb;
} __attribute__((preserve_access_index));
struct super_block___chained {
	struct mount *s_mounts;
} __attribute__((preserve_access_index));

static __always_inline struct mount *kt_a_mount_of(const struct super_block *sb)
{
	void *next;

	if (bpf_core_field_exists(((struct mount___chained *)0)->mnt_next_for_sb))
		return BPF_CORE_READ((const struct super_block___chained *)sb, s_mounts);
	next = BPF_CORE_READ((const struct super_block___listed *)sb, s_mounts.next);
	if (!next || next == (const void *)sb + bpf_core_field_offset(struct super_block___listed, s_mounts))
		return 0;
	return next - bpf_core_field_offset(struct mount___listed, mnt_instance);
}

/*
 * The rights that a worker of io_uring has for the request that it is at: those of who asked, which may have
 * changed since the worker was made. task_struct had its worker under another name in 5.10's later releases.
 */
struct task_struct___worker {
	struct io_worker *worker_private;
} __attribute__((preserve_access_index));
struct task_struct___pf_worker {
	struct io_worker *pf_io_worker;
} __attribute__((preserve_access_index));

static __always_inline const struct cred *kt_requested_rights(const struct task_struct *task)
{
	const struct io_worker *worker = 0;
	const struct io_kiocb *request;
	const struct io_wq_work *work;

	if (!bpf_core_type_exists(struct io_worker) || !bpf_core_field_exists(((struct io_kiocb *)0)->creds))
		return 0;
	if (bpf_core_field_exists(((struct task_struct___worker *)0)->worker_private))
		worker = BPF_CORE_READ((const struct task_struct___worker *)task, worker_private);
	else if (bpf_core_field_exists(((struct task_struct___pf_worker *)0)->pf_io_worker))
		worker = BPF_CORE_READ((const struct task_struct___pf_worker *)task, pf_io_worker);
	if (!worker)
		return 0;
	work = BPF_CORE_READ(worker, cur_work);
	request = (const void *)work - bpf_core_field_offset(struct io_kiocb, work);
	return BPF_CORE_READ(request, creds);
}

#ifdef KT_BCC
#define KT_READS_TYPES                                                                                       \
	false /* its structs are packed: members would be loaded by bytes, which no verifier takes */
#else
#define KT_READS_TYPES true
#endif

/*
 * Whether the thread works with other rights than its own, as overlayfs does while it calls the file system
 * below (override_creds): what is done so is part of what was asked for above. The helper is there
 * since 5.11.
 */
enum bpf_func_id {
	BPF_FUNC_get_current_task_btf = 158,
};

static __always_inline bool kt_is_nested(void)
{
	const struct cred *own, *now;
	struct task_struct *task;

	if (KT_READS_TYPES && bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_current_task_btf)) {
		task = bpf_get_current_task_btf();
		now = task->cred;
		own = task->real_cred;
	} else {
		task = (struct task_struct *)bpf_get_current_task();
		now = BPF_CORE_READ(task, cred);
		own = BPF_CORE_READ(task, real_cred);
	}
	if (now == own)
		return false;
	task = (struct task_struct *)bpf_get_current_task();
	return !(BPF_CORE_READ(task, flags) & PF_IO_WORKER) || now != kt_requested_rights(task);
}

/*
 * Arguments by their place, which user space reads off the prototype in the kernel's BTF
 * (engines/prototypes.py): CO-RE does not relocate prototypes. A place that is not known is KT_NO_PLACE. Each
 * branch reads by itself: clang would compute an address in ctx, which the verifier refuses.
 */
#define KT_NO_PLACE 255
#define KT_FROM(value)                                                                                       \
	({                                                                                                   \
		__u64 kt_value = (__u64)(value);                                                             \
                                                                                                             \
		asm volatile("" : "+r"(kt_value));                                                           \
		kt_value;                                                                                    \
	})
#define KT_ARGUMENT(ctx, place)                                                                              \
	((void *)((place) == 0	 ? KT_FROM((ctx)[0])                                                         \
		  : (place) == 1 ? KT_FROM((ctx)[1])                                                         \
		  : (place) == 2 ? KT_FROM((ctx)[2])                                                         \
		  : (place) == 3 ? KT_FROM((ctx)[3])                                                         \
		  : (place) == 4 ? KT_FROM((ctx)[4])                                                         \
		  : (place) == 5 ? KT_FROM((ctx)[5])                                                         \
		  : (place) == 6 ? KT_FROM((ctx)[6])                                                         \
				 : 0))
#define KT_REGISTER_ARGUMENT(ctx, place)                                                                     \
	((void *)((place) == 0	 ? KT_FROM(PT_REGS_PARM1(ctx))                                               \
		  : (place) == 1 ? KT_FROM(PT_REGS_PARM2(ctx))                                               \
		  : (place) == 2 ? KT_FROM(PT_REGS_PARM3(ctx))                                               \
		  : (place) == 3 ? KT_FROM(PT_REGS_PARM4(ctx))                                               \
		  : (place) == 4 ? KT_FROM(PT_REGS_PARM5(ctx))                                               \
				 : 0))

/*
 * The path by which the user knows a file. A mapping of an overlay's file holds the file below it
 * (fs/overlayfs/file.c, ovl_mmap), whose f_path is the user's until 6.7 and user_path after (def3ae83da02).
 * Told by FMODE_NOACCOUNT, which every such file has: FMODE_BACKING has changed its bit (6.14, and in stable
 * kernels).
 */
struct backing_file___user {
	struct file file;
	struct path user_path;
} __attribute__((preserve_access_index));

/* A copy of a struct path: of our own type, so that reading it is not a matter of CO-RE. */
struct kt_file_path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};

static __always_inline void kt_user_path(struct kt_file_path *path, const struct file *file)
{
	const struct backing_file___user *backing = (const void *)file;

	if (bpf_core_type_exists(struct backing_file___user) && bpf_core_field_exists(backing->user_path) &&
	    BPF_CORE_READ(file, f_mode) & FMODE_NOACCOUNT) {
		path->mnt = BPF_CORE_READ(backing, user_path.mnt);
		path->dentry = BPF_CORE_READ(backing, user_path.dentry);
		return;
	}
	path->mnt = BPF_CORE_READ(file, f_path.mnt);
	path->dentry = BPF_CORE_READ(file, f_path.dentry);
}

/*
 * Where overlayfs keeps an object's lower layers: in dentry.d_fsdata until 6.4 (then in ovl_inode.oe,
 * 0af950f57fef), and under other names since (163db0da3515). 5.10 has no BTF of modules (36e68442d1af, 5.11):
 * there its one layout is written down here, from fs/overlayfs/ovl_entry.h; it is only used where the kernel
 * is that old.
 */
struct ovl_entry___counted {
	unsigned int __numlower;
	struct ovl_path __lowerstack[];
} __attribute__((preserve_access_index));
struct ovl_inode___oe {
	struct ovl_entry___counted *oe;
} __attribute__((preserve_access_index));

struct kt_ovl_entry_5_10 {
	__u64 rcu[2];
	__u32 numlower;
	struct {
		void *layer;
		void *dentry;
	} lowerstack[1];
};
struct kt_ovl_layer_5_10 {
	void *mnt, *trap, *fs;
	__s32 idx;
};
struct kt_ovl_inode_5_10 {
	void *cache;
	const char *redirect;
	__u64 version;
	__u64 flags;
	/* struct inode vfs_inode, struct dentry *__upperdentry */
};

struct kt_ovl_fs_5_10 {
	__u32 numlayer, numfs;
	void *layers, *fs, *workbasedir, *workdir, *indexdir;
	long namelen;
	struct {
		const char *lowerdir, *upperdir;
	} config;
};

static __always_inline bool kt_overlay_without_btf(void)
{
	return !bpf_core_type_exists(struct ovl_layer) && !kt_inode_operations_are_idmapped();
}

/* Index of the layer that an object is copied from: 1 is the first in lowerdir; 0 where it cannot be told. */
static __always_inline __u16 kt_overlay_layer(const struct dentry *dentry)
{
	const struct inode *inode = BPF_CORE_READ(dentry, d_inode);
	void *layer = 0;
	__s32 index = 0;

	if (bpf_core_type_exists(struct ovl_layer)) {
		if (bpf_core_field_exists(((struct ovl_inode___oe *)0)->oe)) {
			const struct ovl_inode___oe *ovl =
			    (const void *)inode - bpf_core_field_offset(struct ovl_inode, vfs_inode);

			layer = BPF_CORE_READ(ovl, oe, __lowerstack[0].layer);
		} else {
			const struct ovl_entry *entry = BPF_CORE_READ(dentry, d_fsdata);

			layer = BPF_CORE_READ(entry, lowerstack[0].layer);
		}
		index = BPF_CORE_READ((const struct ovl_layer *)layer, idx);
	} else if (kt_overlay_without_btf()) {
		const struct kt_ovl_entry_5_10 *entry = BPF_CORE_READ(dentry, d_fsdata);

		bpf_probe_read_kernel(&layer, sizeof(layer), &entry->lowerstack[0].layer);
		bpf_probe_read_kernel(&index, sizeof(index), &((struct kt_ovl_layer_5_10 *)layer)->idx);
	}
	/* OVL_MAX_STACK is 500 */
	return index > 0 && index <= 500 ? index : 0;
}

/* The upperdir that an overlay was mounted with, as show_options prints it; 0: it has none, or it cannot be
 * told (without the kernel's BTF). */
static __always_inline const char *kt_overlay_upperdir(const struct super_block *sb)
{
	const void *overlay = BPF_CORE_READ(sb, s_fs_info);
	const char *upperdir = 0;

	if (bpf_core_type_exists(struct ovl_fs))
		upperdir = BPF_CORE_READ((const struct ovl_fs *)overlay, config.upperdir);
	else if (kt_overlay_without_btf())
		bpf_probe_read_kernel(&upperdir, sizeof(upperdir),
				      &((const struct kt_ovl_fs_5_10 *)overlay)->config.upperdir);
	return upperdir;
}

/* The object in the writable layer; 0: there is none. */
static __always_inline struct dentry *kt_overlay_upper_dentry(const struct inode *inode)
{
	struct dentry *dentry = 0;

	if (bpf_core_type_exists(struct ovl_layer)) {
		const struct ovl_inode *ovl =
		    (const void *)inode - bpf_core_field_offset(struct ovl_inode, vfs_inode);

		dentry = BPF_CORE_READ(ovl, __upperdentry);
	} else if (kt_overlay_without_btf()) {
		bpf_probe_read_kernel(&dentry, sizeof(dentry),
				      (const void *)inode + bpf_core_type_size(struct inode));
	}
	return dentry;
}

/* Whether the object has an upper dentry, and whether its data is there (without metacopy both come at once).
 */
static __always_inline void kt_overlay_upper(const struct inode *inode, bool *upper, bool *data)
{
	__u64 flags = 0;

	*upper = kt_overlay_upper_dentry(inode) != 0;
	*data = true;
	if (bpf_core_type_exists(struct ovl_layer)) {
		const struct ovl_inode *ovl =
		    (const void *)inode - bpf_core_field_offset(struct ovl_inode, vfs_inode);

		flags = BPF_CORE_READ(ovl, flags);
		*data = flags >> bpf_core_enum_value(enum ovl_inode_flag, OVL_UPPERDATA) & 1;
	} else if (kt_overlay_without_btf()) {
		const struct kt_ovl_inode_5_10 *ovl = (const void *)inode - sizeof(*ovl);

		bpf_probe_read_kernel(&flags, sizeof(flags), &ovl->flags);
		*data = flags >> OVL_UPPERDATA & 1;
	}
}

/* include/uapi/linux/magic.h */
#define OVERLAYFS_SUPER_MAGIC 0x794c7630

/* What kt_file_number lacks for a file of an overlay, whose inodes all have the generation 0: the one of the
 * object in the writable layer, in the same place. Inode numbers are given again. */
static __always_inline __u64 kt_upper_generation(const struct inode *inode)
{
	struct dentry *upper;

	if (BPF_CORE_READ(inode, i_sb, s_magic) != OVERLAYFS_SUPER_MAGIC)
		return 0;
	upper = kt_overlay_upper_dentry(inode);
	return upper ? (__u64)BPF_CORE_READ(upper, d_inode, i_generation) << 32 : 0;
}

/*
 * What a process has resident, in pages: plain counters until 6.1 (struct mm_rss_stat), per-CPU ones
 * since 6.2 (f1a7941243c1), of which this reads the common part: it lags by at most 32 pages for each CPU and
 * kind.
 */
struct mm_rss_stat {
	atomic_long_t count[4];
} __attribute__((preserve_access_index));
struct mm_struct___plain {
	struct mm_rss_stat rss_stat;
} __attribute__((preserve_access_index));
struct percpu_counter {
	__s64 count;
} __attribute__((preserve_access_index));
struct mm_struct___percpu {
	struct percpu_counter rss_stat[4];
} __attribute__((preserve_access_index));

static __always_inline __u64 kt_resident_pages(const void *mm)
{
	const struct mm_struct___percpu *percpu = mm;
	const struct mm_struct___plain *plain = mm;
	__s64 file, anon, shmem;

	/* MM_FILEPAGES, MM_ANONPAGES, MM_SWAPENTS, MM_SHMEMPAGES (include/linux/mm_types_task.h) */
	if (bpf_core_type_exists(struct mm_rss_stat)) {
		file = BPF_CORE_READ(plain, rss_stat.count[0].counter);
		anon = BPF_CORE_READ(plain, rss_stat.count[1].counter);
		shmem = BPF_CORE_READ(plain, rss_stat.count[3].counter);
	} else {
		file = BPF_CORE_READ(percpu, rss_stat[0].count);
		anon = BPF_CORE_READ(percpu, rss_stat[1].count);
		shmem = BPF_CORE_READ(percpu, rss_stat[3].count);
	}
	return (file > 0 ? file : 0) + (anon > 0 ? anon : 0) + (shmem > 0 ? shmem : 0);
}

/* What it has in swap, of the same counters. */
static __always_inline __u64 kt_swapped_pages(const void *mm)
{
	const struct mm_struct___percpu *percpu = mm;
	const struct mm_struct___plain *plain = mm;
	__s64 swapped;

	if (bpf_core_type_exists(struct mm_rss_stat))
		swapped = BPF_CORE_READ(plain, rss_stat.count[2].counter);
	else
		swapped = BPF_CORE_READ(percpu, rss_stat[2].count);
	return swapped > 0 ? swapped : 0;
}

/*
 * oom:mark_victim gives the victim's task since 72ba14deb40a (6.10, backported to 6.1), before that its pid.
 * The tracepoint's own record tells the two apart: with the task came the uid.
 */
struct trace_event_raw_mark_victim {
	__u32 uid;
} __attribute__((preserve_access_index));

static __always_inline bool kt_mark_victim_gives_task(void)
{
	return bpf_core_field_exists(((struct trace_event_raw_mark_victim *)0)->uid);
}

#endif
