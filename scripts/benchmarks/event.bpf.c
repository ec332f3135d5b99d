// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Records of 128 bytes with their header, one for each getppid() of a process. */
#include "../../bpf/hooks.bpf.h"
#include "../../bpf/stream.bpf.h"
#include "../../bpf/who.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct bench_event {
	kt_boot_ns time;
	kt_cgroup_id cgroup_id;
	kt_inode inode;
	kt_bytes copied;
	kt_duration_ns duration;
	__u32 pid;
	kt_dev device;
	kt_errno error;
	__u32 operation;
	char comm[16];
	char name[48];
};
KT_STREAM(bench, bench_event, 1024 * 1024);

#if defined(__TARGET_ARCH_x86)
#define NR_GETPPID 110
#else
#define NR_GETPPID 173
#endif

const volatile __u32 standin_pid = 0;

SEC("raw_tp/sys_enter")
int bench__raw_tp(struct bpf_raw_tracepoint_args *ctx)
{
	struct bench_event event = {};

	if (ctx->args[1] != NR_GETPPID || bpf_get_current_pid_tgid() >> 32 != standin_pid)
		return 0;
	event.time = bpf_ktime_get_boot_ns();
	event.cgroup_id = bpf_get_current_cgroup_id();
	event.inode = event.time >> 10;
	event.copied = 4096;
	event.duration = event.time & 0xffff;
	event.pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(event.comm, sizeof(event.comm));
	kt_output(&bench, &event, sizeof(event));
	return 0;
}
