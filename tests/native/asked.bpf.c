// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A tracer of one's own on a tracepoint: each getpriority(which, who) is told as a question about `who`, of
 * 1,000 bytes for each of the first ten, in the directory that it was asked in.
 */
#include "tracer.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#if defined(__TARGET_ARCH_x86)
#define NR_GETPRIORITY 140
#else
#define NR_GETPRIORITY 141
#endif

struct fs_struct {
	struct path pwd;
} __attribute__((preserve_access_index));
struct task_struct___fs {
	struct fs_struct *fs;
} __attribute__((preserve_access_index));

enum asked_about {
	asked_process,
	asked_group,
	asked_user,
};

struct asked_event {
	KT_WHO;
	kt_bytes size;
	kt_count questions;
	kt_duration_ns waited;
	enum asked_about about;
	kt_errno error;
	__u32 who;
	__u16 path_bytes;
	__u16 path_end;
	char path[512 - 8 - KT_WHO_BYTES - 40];
};
KT_STREAM(asked, asked_event, 256 * 1024);
KT_ROOM(room, asked_event);

SEC("raw_tp/sys_enter")
int asked__raw_tp(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct___fs *task = (void *)bpf_get_current_task();
	struct pt_regs *registers = (struct pt_regs *)ctx->args[0];
	struct asked_event *event;
	struct kt_path_walk walk;

	if (ctx->args[1] != NR_GETPRIORITY)
		return 0;
	event = room_cleared();
	if (!event || !kt_who_runs(event))
		return 0;
	event->about = BPF_CORE_READ(registers, di);
	event->who = BPF_CORE_READ(registers, si);
	event->questions = 1;
	event->size = event->who < 10 ? 1000 : 0;
	event->waited = event->who;
	event->error = event->who > 10 ? -3 : 0;
	walk = kt_path_of(BPF_CORE_READ(task, fs, pwd.dentry), event->path, sizeof(event->path));
	event->path_bytes = walk.bytes;
	event->path_end = walk.end;
	kt_output(&asked, event, sizeof(*event));
	return 0;
}
