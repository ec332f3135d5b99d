/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel's structs and constants that kubetrace reads, and only the members it reads.
 *
 * Every struct is relocated against the running kernel's BTF when the object is loaded (CO-RE), so order,
 * padding and missing members do not matter; names do, and are the kernel's own. No vmlinux.h dump.
 */
#ifndef KT_KERNEL_BPF_H
#define KT_KERNEL_BPF_H

/* bpf_tracing.h must use the kernel's register names (di), not those of user space (rdi). */
#define __VMLINUX_H__

typedef unsigned char __u8;
typedef signed char __s8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __s32 s32;
typedef __u64 u64;
typedef __s64 s64;
typedef _Bool bool;
#define true 1
#define false 0

/* include/uapi/linux/bpf.h: what map definitions and helpers are given. */
enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_RINGBUF = 27,
};
enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_EXIST = 2,
};
enum {
	BPF_RB_NO_WAKEUP = 1ULL << 0,
	BPF_RB_FORCE_WAKEUP = 1ULL << 1,
};
enum {
	BPF_RB_AVAIL_DATA = 0,
	BPF_RB_RING_SIZE = 1,
};
struct bpf_raw_tracepoint_args {
	__u64 args[0];
};

/* include/uapi/asm-generic/fcntl.h */
#define O_WRONLY 00000001
#define O_TRUNC	 00001000

/* include/linux/fs.h: what struct iattr.ia_valid says is to be changed */
#define ATTR_MODE      (1 << 0)
#define ATTR_UID       (1 << 1)
#define ATTR_GID       (1 << 2)
#define ATTR_SIZE      (1 << 3)
#define ATTR_ATIME     (1 << 4)
#define ATTR_MTIME     (1 << 5)
#define ATTR_CTIME     (1 << 6)
#define ATTR_FORCE     (1 << 9)
#define ATTR_KILL_SUID (1 << 11)
#define ATTR_KILL_SGID (1 << 12)

/* include/uapi/linux/stat.h */
#define S_IFMT	  00170000
#define S_IFREG	  0100000
#define S_IFDIR	  0040000
#define S_IFBLK	  0060000
#define S_IALLUGO 0007777

/* include/linux/uidgid.h: kuid_t and kgid_t, read whole */
struct kt_id {
	__u32 val;
};

/* include/linux/fs.h: a file that a stacking file system opened for itself; and one that knows the user's
 * path */
#define FMODE_NOACCOUNT (1 << 29)
/* open(2) made the file */
#define FMODE_CREATED (1 << 20)
#define __O_TMPFILE   020000000

/* include/linux/sched.h */
#define PF_IO_WORKER 0x00000010

/* include/uapi/asm-generic/errno-base.h, include/linux/errno.h */
#define ENOENT	    2
#define EINTR	    4
#define ENXIO	    6
#define EAGAIN	    11
#define EEXIST	    17
#define EXDEV	    18
#define ENOTDIR	    20
#define EISDIR	    21
#define EINVAL	    22
#define ENOSYS	    38
#define ENOTEMPTY   39
#define ELOOP	    40
#define EOPNOTSUPP  95
#define ERESTARTSYS 512
#define EIOCBQUEUED 529

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long bx, cx, dx, si, di, r8, r9, r10, ax, ip, sp, bp, orig_ax;
};
#elif defined(__TARGET_ARCH_arm64)
struct user_pt_regs {
	__u64 regs[31];
	__u64 sp;
	__u64 pc;
};
struct pt_regs;
#endif

/* include/linux/dcache.h, include/linux/fs.h */
struct qstr {
	const unsigned char *name;
};
struct file_system_type {
	const char *name;
};
struct super_block {
	__u32 s_dev;
	unsigned long s_magic;
	struct file_system_type *s_type;
	struct dentry *s_root;
	void *s_fs_info;
};
struct inode {
	__u16 i_mode;
	struct super_block *i_sb;
	struct kt_id i_uid;
	struct kt_id i_gid;
	unsigned long i_ino;
	long long i_size;
	__u32 i_generation;
	__u32 i_rdev;
	unsigned int i_nlink;
};
struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
	struct super_block *d_sb;
	void *d_fsdata;
};
struct iattr {
	unsigned int ia_valid;
	__u16 ia_mode;
	struct kt_id ia_uid;
	struct kt_id ia_gid;
};
struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
};
struct file {
	unsigned int f_mode;
	unsigned int f_flags;
	struct path f_path;
	struct inode *f_inode;
};

/* include/linux/mount.h, fs/mount.h */
struct vfsmount {
	struct dentry *mnt_root;
	struct super_block *mnt_sb;
};
struct mnt_namespace;
struct mount {
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
	const char *mnt_devname;
	struct mnt_namespace *mnt_ns;
	int mnt_id;
};

/* include/linux/fs.h, include/linux/io_uring_types.h, include/linux/mm_types.h, include/linux/mm.h */
struct kiocb {
	struct file *ki_filp;
};
struct io_cqe {
	__s32 res;
};
struct cred;
struct io_wq_work {
	int flags;
};
struct io_kiocb {
	struct io_cqe cqe;
	const struct cred *creds;
	struct io_wq_work work;
};
struct io_worker {
	struct io_wq_work *cur_work;
};
struct vm_area_struct {
	struct file *vm_file;
};
struct vm_fault {
	struct vm_area_struct *vma;
};

/* include/linux/fdtable.h */
struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};
struct files_struct {
	struct fdtable *fdt;
};

/* fs/overlayfs/ovl_entry.h, in the module's BTF; drift.bpf.h says which of these a kernel has */
struct ovl_layer {
	int idx;
};
struct ovl_path {
	struct ovl_layer *layer;
};
struct ovl_entry {
	unsigned int numlower;
	struct ovl_path lowerstack[];
};
struct ovl_inode {
	unsigned long flags;
	struct inode vfs_inode;
	struct dentry *__upperdentry;
};
struct ovl_config {
	char *upperdir;
};
struct ovl_fs {
	struct ovl_config config;
};
enum ovl_inode_flag {
	OVL_UPPERDATA = 3,
};

/* include/linux/kernfs.h, include/linux/cgroup-defs.h, include/linux/sched.h */
struct kernfs_node {
	__u64 id;
};
struct cgroup_root {
	int hierarchy_id;
};
struct cgroup {
	struct kernfs_node *kn;
	struct cgroup_root *root;
	int level;
};
struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys_state *parent;
};
struct css_set {
	struct cgroup_subsys_state *subsys[1];
	struct cgroup *dfl_cgrp; /* in the v2 hierarchy */
};
enum cgroup_subsys_id {
	memory_cgrp_id,
};

/* include/linux/page_counter.h, include/linux/memcontrol.h */
typedef struct {
	long long counter;
} atomic_long_t;
struct page_counter {
	atomic_long_t usage;
	unsigned long high;
	unsigned long max;
	struct page_counter *parent;
};
struct mem_cgroup {
	struct cgroup_subsys_state css;
	struct page_counter memory;
	atomic_long_t memory_events[1];
	bool oom_group;
};
enum memcg_memory_event {
	MEMCG_HIGH = 1,
	MEMCG_MAX,
	MEMCG_OOM,
	MEMCG_OOM_KILL,
};

/* include/linux/sched/signal.h, include/linux/pid.h, include/linux/mm_types.h, include/linux/binfmts.h */
typedef struct {
	int counter;
} atomic_t;
struct tty_struct;
struct signal_struct {
	atomic_t live; /* threads that have not begun to exit */
	int group_exit_code;
	unsigned int flags;
	unsigned long long sum_sched_runtime; /* of threads that have exited */
	__u64 cutime;			      /* of children that were waited for */
	__u64 cstime;
	struct tty_struct *tty;
};
struct sched_entity {
	__u64 sum_exec_runtime;
};
/* include/linux/ns_common.h and those that have one */
struct ns_common {
	unsigned int inum;
};
struct pid_namespace {
	struct ns_common ns;
};
struct mnt_namespace {
	struct ns_common ns;
};
struct net {
	struct ns_common ns;
};
struct uts_namespace {
	struct ns_common ns;
};
struct ipc_namespace {
	struct ns_common ns;
};
struct user_namespace {
	struct ns_common ns;
};
struct nsproxy {
	struct uts_namespace *uts_ns;
	struct ipc_namespace *ipc_ns;
	struct mnt_namespace *mnt_ns;
	struct net *net_ns;
};
struct cred {
	struct user_namespace *user_ns;
};
struct upid {
	int nr;
	struct pid_namespace *ns;
};
struct pid {
	unsigned int level;
	struct upid numbers[1];
};
struct mm_struct;
struct task_struct {
	unsigned int flags;
	struct css_set *cgroups;
	int pid;
	int tgid;
	int exit_code;
	char comm[16];
	struct task_struct *group_leader;
	struct task_struct *real_parent;
	struct signal_struct *signal;
	struct pid *thread_pid;
	struct mm_struct *mm;
	struct nsproxy *nsproxy;
	const struct cred *real_cred;
	const struct cred *cred;
	struct files_struct *files;
	struct sched_entity se;
	__u64 start_boottime; /* since 5.5 (cf25e24db61c) */
};
struct linux_binprm {
	const char *filename;
};

#pragma clang attribute pop

#endif
