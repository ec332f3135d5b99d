/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * disk: which files that have no name any more are held open.
 *
 * All else that kubetrace disk shows is read off the node's files (src/kubetrace/tracers/disk). Nothing is
 * hooked: the program is an iterator (iter/task_file, since 5.8), which runs while user space reads it, once
 * for each open file of each process. It takes a fraction of what looking at /proc/PID/fd takes.
 *
 * A candidate only: i_nlink of an overlay's file is not what stat(2) says, and i_blocks lacks what is not
 * allocated yet, so user space asks /proc/PID/fd/FD for both.
 */
#include "cgroup_births.bpf.h"
#include "who.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct disk_held {
	__u32 pid;
	__u32 fd;
	kt_inode inode;
};
struct disk_held *kt_pin_held __attribute__((unused));

/* include/linux/bpf.h, kernel/bpf/task_iter.c: each member takes eight bytes; a context is not relocated */
struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session_id;
	__u64 seq_num;
};
struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	__u32 unused;
	struct file *file;
};

/* The process's number as this reader of /proc has it: by the PID namespace that it is in itself. */
static __always_inline __u32 disk_pid(struct task_struct *task)
{
	struct task_struct *reader = (struct task_struct *)bpf_get_current_task();
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	__u64 level = BPF_CORE_READ(reader, thread_pid, level);
	struct upid *numbers = (void *)pid + bpf_core_field_offset(pid->numbers);
	int number = 0;

	if (level > BPF_CORE_READ(pid, level))
		return 0;
	bpf_probe_read_kernel(&number, sizeof(number),
			      (void *)numbers + level * bpf_core_type_size(struct upid) +
				  bpf_core_field_offset(struct upid, nr));
	return number;
}

SEC("iter/task_file")
int held__iter(struct bpf_iter__task_file *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct disk_held held = {};
	struct inode *inode;

	if (!task || !file)
		return 0;
	/* up to 5.10 each thread is visited, and they share their files */
	if (BPF_CORE_READ(task, pid) != BPF_CORE_READ(task, tgid))
		return 0;
	inode = BPF_CORE_READ(file, f_inode);
	if (BPF_CORE_READ(inode, i_nlink) || (BPF_CORE_READ(inode, i_mode) & S_IFMT) != S_IFREG)
		return 0;
	held.pid = disk_pid(task);
	held.fd = ctx->fd;
	held.inode = BPF_CORE_READ(inode, i_ino);
	bpf_seq_write(seq, &held, sizeof(held));
	return 0;
}
