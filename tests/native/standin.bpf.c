// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A stand-in for copyup on kernels that refuse kprobes and fentry: the same events, streams and bodies, fired
 * by a tracepoint. Each getppid() of the thread group standin_pid (0: of any) is told as one copy-up of its
 * working directory, with a copied size of its own count; everything behind the hook is the real thing.
 */
#define KT_NO_HOOKS
#include "../../bpf/copyup.bpf.c"

#if defined(NR_GETPPID)
/* another system call, that nobody else makes: benchmarks trace every process */
#elif defined(__TARGET_ARCH_x86)
#define NR_GETPPID 110
#else
#define NR_GETPPID 173
#endif

struct fs_struct {
	struct path pwd;
} __attribute__((preserve_access_index));
struct task_struct___fs {
	struct fs_struct *fs;
} __attribute__((preserve_access_index));

const volatile __u32 standin_pid = 0;
__u64 standin_count = 0;

SEC("raw_tp/sys_enter")
int standin__raw_tp(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct___fs *task = (void *)bpf_get_current_task();

	if (ctx->args[1] != NR_GETPPID || (standin_pid && bpf_get_current_pid_tgid() >> 32 != standin_pid))
		return 0;
	copyup_enter(BPF_CORE_READ(task, fs, pwd.dentry), 02001, kt_only);
	copyup_spliced(++standin_count, 0, kt_only);
	return copyup_return(0, kt_only);
}
