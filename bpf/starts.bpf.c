/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * starts: what happens between the making of a pod's cgroup and the first write of its containers.
 *
 * Steps are told as they happen, in whichever cgroup; which of them belong to the start of a pod is user
 * space's to say (src/kubetrace/tracers/starts.py): the root of a container is mounted by the runtime before
 * its cgroup is there.
 *
 * mount, unshare, pivot_root and the first write are hooked by function. Where the kernel has neither fentry
 * nor kprobes they come from sys_exit, which makes every system call of the node slower while this runs.
 */
#include "cgroup_births.bpf.h"
#include "cgroup_first.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* The groups of programs that have a backup. */
#define STARTS_GROUPS(X) X(created) X(removed) X(attached) X(exec)
KT_GROUPS(STARTS_GROUPS);

/* pod_cgroup, prepared and rootfs are user space's: from facts, and from where something is mounted. */
enum starts_phase {
	starts_pod_cgroup,
	starts_cgroup,
	starts_prepared,
	starts_rootfs,
	starts_runc_init,
	starts_namespaces,
	starts_volumes,
	starts_pivot_root,
	starts_exec,
	starts_first_write,
	starts_removed,
};

/* In the order of enum starts_namespace. */
enum starts_namespace {
	starts_ns_pid,
	starts_ns_mnt,
	starts_ns_net,
	starts_ns_uts,
	starts_ns_ipc,
	starts_ns_user,
};

struct starts_step {
	KT_WHOSE; /* device: always 0 */
	enum starts_phase phase;
	kt_duration_ns duration; /* user space's: since the step before */
	kt_duration_ns since;	 /* and since the pod began */
	kt_duration_ns total;	 /* what all of this container's steps took, from then on */
	__u32 first;		 /* exec: of what the container was made for */
	__u32 flags; /* volumes: as mount(2) was given them; namespaces: as unshare(2); exec: as node, the
			sandbox's */
	struct {
		__u32 pid, mnt, net, uts, ipc, user;
	} ns;	    /* exec: as readlink of /proc/PID/ns/... shows them */
	__u32 node; /* exec: 1 << enum starts_namespace, of those that are the node's */
	__u16 path_bytes;
	__u16 layers; /* user space's sums: of the root's overlay, of bind mounts, of tmpfs */
	__u16 binds;
	__u16 memories;
	char comm[16];
	char kind[16];		  /* volumes: the type of file system, or "" */
	char path[512 - 8 - 140]; /* exec: the program; volumes: where it is mounted */
};
KT_STREAM(steps, starts_step, 2 * 1024 * 1024);

/* Entrypoints that have not written yet. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32); /* tgid */
	__type(value, struct kt_cgroups);
} silent SEC(".maps");

static __always_inline struct starts_step *step_begin(__u32 phase, const struct kt_cgroups *who)
{
	struct starts_step *event = bpf_ringbuf_reserve(&steps, sizeof(*event), 0);

	if (!event) {
		kt_lost(kt_loss_ring_full);
		return 0;
	}
	__builtin_memset(event, 0, sizeof(*event));
	kt_whose(event, who);
	event->phase = phase;
	return event;
}

static __always_inline void step_process(struct starts_step *event)
{
	event->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
}

static __always_inline void step_end(struct starts_step *event)
{
	bpf_ringbuf_submit(event, kt_wake(&steps, sizeof(*event)));
}

static __always_inline int step_cgroup(struct bpf_raw_tracepoint_args *ctx, __u32 phase)
{
	struct starts_step *event;
	struct kt_cgroups who;

	if (!kt_cgroup_itself((struct cgroup *)ctx->args[0], &who))
		return 0;
	if (phase == starts_cgroup)
		kt_cgroup_is_born(&who);
	event = step_begin(phase, &who);
	if (event)
		step_end(event);
	return 0;
}

KT_RAW_TP(created, "cgroup_mkdir", step_cgroup(ctx, starts_cgroup))
KT_RAW_TP(removed, "cgroup_rmdir", step_cgroup(ctx, starts_removed))

static __always_inline int step_attached(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx->args[2];
	struct starts_step *event;
	struct kt_cgroups who;

	if (!kt_cgroup_itself((struct cgroup *)ctx->args[0], &who))
		return 0;
	event = step_begin(starts_runc_init, &who);
	if (!event)
		return 0;
	event->pid = BPF_CORE_READ(task, tgid);
	bpf_probe_read_kernel_str(event->comm, sizeof(event->comm), task->comm);
	step_end(event);
	return 0;
}

KT_RAW_TP(attached, "cgroup_attach_task", step_attached(ctx))

static __always_inline __u32 step_pid_namespace(struct task_struct *task)
{
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	__u32 level = BPF_CORE_READ(pid, level);
	struct pid_namespace *ns = 0;

	/* MAX_PID_NS_LEVEL is 32 */
	if (level > 32)
		return 0;
	bpf_probe_read_kernel(&ns, sizeof(ns),
			      (void *)pid + bpf_core_field_offset(pid->numbers) +
				  level * bpf_core_type_size(struct upid) +
				  bpf_core_field_offset(struct upid, ns));
	return BPF_CORE_READ(ns, ns.inum);
}

/* The namespaces of the process that runs, and which of them process 1 of the node has too. */
static __always_inline void step_namespaces(struct starts_step *event)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task(), *up = task;
	struct nsproxy *own = BPF_CORE_READ(task, nsproxy), *first;

	event->ns.pid = step_pid_namespace(task);
	event->ns.mnt = BPF_CORE_READ(own, mnt_ns, ns.inum);
	event->ns.net = BPF_CORE_READ(own, net_ns, ns.inum);
	event->ns.uts = BPF_CORE_READ(own, uts_ns, ns.inum);
	event->ns.ipc = BPF_CORE_READ(own, ipc_ns, ns.inum);
	event->ns.user = BPF_CORE_READ(task, cred, user_ns, ns.inum);
	for (int depth = 0; depth < 32 && BPF_CORE_READ(up, tgid) > 1; depth++)
		up = BPF_CORE_READ(up, real_parent);
	if (BPF_CORE_READ(up, tgid) != 1)
		return;
	first = BPF_CORE_READ(up, nsproxy);
	event->node |= (event->ns.pid == step_pid_namespace(up)) << starts_ns_pid;
	event->node |= (event->ns.mnt == BPF_CORE_READ(first, mnt_ns, ns.inum)) << starts_ns_mnt;
	event->node |= (event->ns.net == BPF_CORE_READ(first, net_ns, ns.inum)) << starts_ns_net;
	event->node |= (event->ns.uts == BPF_CORE_READ(first, uts_ns, ns.inum)) << starts_ns_uts;
	event->node |= (event->ns.ipc == BPF_CORE_READ(first, ipc_ns, ns.inum)) << starts_ns_ipc;
	event->node |= (event->ns.user == BPF_CORE_READ(up, cred, user_ns, ns.inum)) << starts_ns_user;
}

static __always_inline int step_exec(struct bpf_raw_tracepoint_args *ctx)
{
	struct linux_binprm *bprm = (struct linux_binprm *)ctx->args[2];
	struct starts_step *event;
	struct kt_cgroups who;
	__u32 pid;
	long read;

	kt_current_cgroups(&who);
	if (kt_excluded(&who) || !kt_cgroup_born(&who))
		return 0;
	event = step_begin(starts_exec, &who);
	if (!event)
		return 0;
	step_process(event);
	read = bpf_probe_read_kernel_str(event->path, sizeof(event->path), BPF_CORE_READ(bprm, filename));
	event->path_bytes = read > 0 ? read - 1 : 0;
	pid = event->pid;
	if (!kt_is_first(&who, event->path, pid)) {
		bpf_ringbuf_discard(event, BPF_RB_NO_WAKEUP);
		return 0;
	}
	event->first = 1;
	step_namespaces(event);
	bpf_map_update_elem(&silent, &pid, &who, BPF_ANY);
	step_end(event);
	return 0;
}

KT_RAW_TP(exec, "sched_process_exec", step_exec(ctx))

/* Of a process in a container's cgroup; user space leaves out what came after the entrypoint. */
static __always_inline int step_of_process(__u32 phase, __u32 flags, long result)
{
	struct starts_step *event;
	struct kt_cgroups who;

	if (result)
		return 0;
	kt_current_cgroups(&who);
	if (kt_excluded(&who) || !kt_cgroup_born(&who))
		return 0;
	event = step_begin(phase, &who);
	if (!event)
		return 0;
	step_process(event);
	event->flags = flags;
	step_end(event);
	return 0;
}

/* Also by the runtime outside of the container (its root), and by the kubelet (volumes). */
static __always_inline int step_mount(const char *target, const char *kind, __u32 flags, long result)
{
	struct starts_step *event;
	struct kt_cgroups who;
	long read;

	if (result)
		return 0;
	kt_current_cgroups(&who);
	if (kt_excluded(&who))
		return 0;
	event = step_begin(starts_volumes, &who);
	if (!event)
		return 0;
	step_process(event);
	event->flags = flags;
	read = bpf_probe_read_user_str(event->path, sizeof(event->path), target);
	event->path_bytes = read > 0 ? read - 1 : 0;
	bpf_probe_read_user_str(event->kind, sizeof(event->kind), kind);
	step_end(event);
	return 0;
}

static __always_inline int step_written(long bytes)
{
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct kt_cgroups *who = bpf_map_lookup_elem(&silent, &pid);
	struct starts_step *event;

	if (!who || bytes <= 0)
		return 0;
	event = step_begin(starts_first_write, who);
	if (event) {
		step_process(event);
		step_end(event);
	}
	bpf_map_delete_elem(&silent, &pid);
	return 0;
}

/* The arguments of a system call, from the registers that it was made with: still there when it returns. */
#if defined(__TARGET_ARCH_x86)
#define STEP_NUMBER(regs)     BPF_CORE_READ(regs, orig_ax)
#define STEP_ARGUMENT_1(regs) BPF_CORE_READ(regs, di)
#define STEP_ARGUMENT_2(regs) BPF_CORE_READ(regs, si)
#define STEP_ARGUMENT_3(regs) BPF_CORE_READ(regs, dx)
#define STEP_ARGUMENT_4(regs) BPF_CORE_READ(regs, r10)
#define STEP_NR_WRITE	      1
#define STEP_NR_WRITEV	      20
#define STEP_NR_PIVOT_ROOT    155
#define STEP_NR_MOUNT	      165
#define STEP_NR_UNSHARE	      272
#else
struct pt_regs___call {
	__u64 regs[31];
	__u64 orig_x0;
	__s32 syscallno;
} __attribute__((preserve_access_index));
#define STEP_NUMBER(regs)     BPF_CORE_READ((struct pt_regs___call *)regs, syscallno)
#define STEP_ARGUMENT_1(regs) BPF_CORE_READ((struct pt_regs___call *)regs, orig_x0)
#define STEP_ARGUMENT_2(regs) BPF_CORE_READ((struct pt_regs___call *)regs, regs[1])
#define STEP_ARGUMENT_3(regs) BPF_CORE_READ((struct pt_regs___call *)regs, regs[2])
#define STEP_ARGUMENT_4(regs) BPF_CORE_READ((struct pt_regs___call *)regs, regs[3])
#define STEP_NR_WRITE	      64
#define STEP_NR_WRITEV	      66
#define STEP_NR_PIVOT_ROOT    41
#define STEP_NR_MOUNT	      40
#define STEP_NR_UNSHARE	      97
#endif

static __always_inline int step_mount_call(const struct pt_regs *regs, long result)
{
	return step_mount((const char *)STEP_ARGUMENT_2(regs), (const char *)STEP_ARGUMENT_3(regs),
			  STEP_ARGUMENT_4(regs), result);
}

/*
 * At the return of the functions by fexit, which has the arguments too. A kretprobe has not: where they are
 * asked for, the kprobe is at the entry, and a call that fails is told like one that does not.
 */
KT_PROGRAM(mounted__fentry, "fexit/" KT_SYSCALL(mount), kt_first, step_mount_call(regs, result),
	   const struct pt_regs *regs, long result)
KT_KPROBE(mounted__kprobe, KT_SYSCALL(mount), kt_only, step_mount_call(regs, 0), const struct pt_regs *regs)

KT_PROGRAM(unshared__fentry, "fexit/" KT_SYSCALL(unshare), kt_first,
	   step_of_process(starts_namespaces, STEP_ARGUMENT_1(regs), result), const struct pt_regs *regs,
	   long result)
KT_KPROBE(unshared__kprobe, KT_SYSCALL(unshare), kt_only,
	  step_of_process(starts_namespaces, STEP_ARGUMENT_1(regs), 0), const struct pt_regs *regs)

KT_RETURN_ALONE(pivoted, KT_SYSCALL(pivot_root), step_of_process(starts_pivot_root, 0, result), long result,
		const struct pt_regs *regs)
KT_RETURN_ALONE(written, "vfs_write", step_written(bytes), long bytes, void *file, void *buffer, __u64 count,
		void *position)

/* The same at the end of every system call, of those with this number. */
#define STEP_SYS_EXIT(group, is_it, call)                                                                    \
	SEC("raw_tp/sys_exit")                                                                               \
	int group##__raw_tp(struct bpf_raw_tracepoint_args *ctx)                                             \
	{                                                                                                    \
		const struct pt_regs *regs = (const struct pt_regs *)ctx->args[0];                           \
		const typeof(STEP_NUMBER(regs)) number = STEP_NUMBER(regs);                                  \
                                                                                                             \
		return is_it ? call : 0;                                                                     \
	}
STEP_SYS_EXIT(mounted, number == STEP_NR_MOUNT, step_mount_call(regs, ctx->args[1]))
STEP_SYS_EXIT(unshared, number == STEP_NR_UNSHARE,
	      step_of_process(starts_namespaces, STEP_ARGUMENT_1(regs), ctx->args[1]))
STEP_SYS_EXIT(pivoted, number == STEP_NR_PIVOT_ROOT, step_of_process(starts_pivot_root, 0, ctx->args[1]))
STEP_SYS_EXIT(written, number == STEP_NR_WRITE || number == STEP_NR_WRITEV, step_written(ctx->args[1]))
