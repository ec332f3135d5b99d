/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel's own headers, for a kernel without BTF: bcc compiles this (never a tracer), and
 * engines/bcc/headers.py reads the types out of the result. It adds a pointer to each type that a tracer asks
 * for.
 *
 * Packages of headers leave out what is private to fs/: those structs are written down here, up to the last
 * member that is read. Each block says which kernels have it so; a kernel that none of them knows has no such
 * struct here, and a tracer that needs it does not load. tests/native/test_headers_native.py holds these
 * offsets to the BTF of a kernel that has both.
 */
#include <linux/version.h>
#include <linux/fs.h>
#include <linux/dcache.h>
#include <linux/mount.h>
#include <linux/fdtable.h>
#include <linux/binfmts.h>
#include <linux/cgroup.h>
#include <linux/kernfs.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/pid_namespace.h>
#include <linux/user_namespace.h>
#include <linux/ipc_namespace.h>
#include <linux/utsname.h>
#include <linux/nsproxy.h>
#include <linux/cred.h>
#include <linux/mm.h>
#include <linux/mm_types.h>
#include <linux/memcontrol.h>
#include <linux/page_counter.h>
#include <linux/percpu_counter.h>
#include <linux/oom.h>
#include <linux/rculist_nulls.h>
#include <linux/seq_file.h>
#include <linux/tcp.h>
#include <net/sock.h>
#include <net/net_namespace.h>
/* since 6.0 (ab1c84d855cf); before that the struct is private to fs/io_uring.c */
#if __has_include(<linux/io_uring_types.h>)
#include <linux/io_uring_types.h>
#endif

/* The records of tracepoints, as TRACE_EVENT declares them (include/trace/stages/stage1_struct_define.h). */
#include <linux/tracepoint.h>
#undef TRACE_EVENT
#undef __field
#undef __array
#undef __string
#define TRACE_EVENT(name, prototype, arguments, members, assign, print)                                      \
	struct trace_event_raw_##name {                                                                      \
		__u64 ent;                                                                                   \
		members                                                                                      \
	};
#define TP_STRUCT__entry(members...) members
#define __field(type, item)	     type item;
#define __array(type, item, length)  type item[length];
#define __string(item, from)	     __u32 __data_loc_##item;
#define TRACE_HEADER_MULTI_READ
#include <trace/events/oom.h>

/* fs/mount.h: 5.8 (9f6c61f96f2d) to 6.14; mnt_id_unique 6.8 (98d2b4308197) */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 15, 0)
struct mount {
	struct hlist_node mnt_hash;
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 8, 0)
	struct rcu_head mnt_rcu;
#else
	struct rb_node mnt_node;
#endif
#ifdef CONFIG_SMP
	void *mnt_pcp;
#else
	int mnt_count, mnt_writers;
#endif
	struct list_head mnt_mounts, mnt_child, mnt_instance;
	const char *mnt_devname;
	struct list_head mnt_list, mnt_expire, mnt_share, mnt_slave_list, mnt_slave;
	struct mount *mnt_master;
	struct mnt_namespace *mnt_ns;
	void *mnt_mp;
	struct hlist_node mnt_mp_list;
	struct list_head mnt_umounting;
#ifdef CONFIG_FSNOTIFY
	void *mnt_fsnotify_marks;
	__u32 mnt_fsnotify_mask;
#endif
	int mnt_id;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
	__u64 mnt_id_unique;
#endif
};
/* fs/mount.h: the count moved into ns_common in 5.11 (1a7b8969e664) */
struct mnt_namespace {
#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 11, 0)
	atomic_t count;
#endif
	struct ns_common ns;
/* an rbtree of mounts instead of list and ns_lock: 6.8 (2eea9ce4310d) */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 8, 0)
	struct mount *root;
	struct list_head list;
	spinlock_t ns_lock;
	struct user_namespace *user_ns;
	struct ucounts *ucounts;
	u64 seq;
#endif
};
#endif

/* io_uring/io-wq.c, fs/io-wq.c before 6.0: the flags became a long in 6.10 */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 6, 0) && LINUX_VERSION_CODE < KERNEL_VERSION(6, 10, 0)
struct io_worker {
	refcount_t ref;
	unsigned int flags;
	struct hlist_nulls_node nulls_node;
	struct list_head all_list;
	struct task_struct *task;
	void *wq;
	struct io_wq_work *cur_work;
};
#endif

/* fs/file_table.c: 6.5 (62d53c4a1dfe); user_path 6.7 (def3ae83da02) */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
struct backing_file {
	struct file file;
	struct path user_path;
};
#endif

/* fs/overlayfs/ovl_entry.h: 5.8 to 6.4, and since 6.5 (163db0da3515, 0af950f57fef) */
enum ovl_inode_flag {
	OVL_IMPURE,
	OVL_WHITEOUTS,
	OVL_INDEX,
	OVL_UPPERDATA,
};
struct ovl_layer {
	struct vfsmount *mnt;
	struct inode *trap;
	void *fs;
	int idx;
};
struct ovl_path {
	const struct ovl_layer *layer;
	struct dentry *dentry;
};
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 5, 0)
struct ovl_entry {
	struct rcu_head rcu;
	unsigned int numlower;
	struct ovl_path lowerstack[];
};
#else
struct ovl_entry {
	unsigned int __numlower;
	struct ovl_path __lowerstack[];
};
#endif
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 5, 0)
struct ovl_config {
	char *lowerdir;
	char *upperdir;
};
struct ovl_fs {
	unsigned int numlayer;
	unsigned int numfs;
	const struct ovl_layer *layers;
	void *fs;
	struct dentry *workbasedir;
	struct dentry *workdir;
	struct dentry *indexdir;
	long namelen;
	struct ovl_config config;
};
#endif
struct ovl_inode {
	void *cache;
	const char *redirect;
	__u64 version;
	unsigned long flags;
	struct inode vfs_inode;
	struct dentry *__upperdentry;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 5, 0)
	struct ovl_entry *oe;
#endif
};
