/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * kubelet: what the node's agents (the kubelet, the container runtime) do to pods, and what it costs.
 *
 * Raw tracepoints alone: they need neither tracefs nor kprobes, and exist since 4.17; inet_sock_set_state
 * since 4.16. The kernel tells what was done to which process; which container that is, and what it means,
 * is user space's to say (src/kubetrace/tracers/kubelet).
 */
#include "cgroup_births.bpf.h"
#include "task_cgroups.bpf.h"
#include "sockets.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* The groups of programs that have a backup. */
/* clang-format off */
#define KUBELET_GROUPS(X)                                                                                    \
	X(created) X(removed) X(attached) X(forked) X(exec) X(exit) X(signal) X(oom) X(connection)
/* clang-format on */
KT_GROUPS(KUBELET_GROUPS);

/* What was done; refresh to umount are user space's, from the node's files. From kubelet_began on the
 * kernel's own: what the others are made of. */
enum kubelet_what {
	kubelet_exec,
	kubelet_connect,
	kubelet_stop,
	kubelet_kill,
	kubelet_signal,
	kubelet_start,
	kubelet_exit,
	kubelet_oom_kill,
	kubelet_run,
	kubelet_refresh,
	kubelet_rotate,
	kubelet_collect,
	kubelet_mount,
	kubelet_umount,
	kubelet_began,
	kubelet_ended,
	kubelet_agent_began,
	kubelet_agent_ended,
	kubelet_signalled,
	kubelet_chosen,
};

/* Of kubelet_act.flags. */
#define ACT_FIRST    (1 << 0) /* the process that the container was made for */
#define ACT_ENTERED  (1 << 1) /* one that the runtime has moved into a container's cgroup */
#define ACT_EXECUTED (1 << 2) /* it got as far as to execute a program */
#define ACT_TERMINAL (1 << 3) /* it has a terminal */
#define ACT_IGNORED  (1 << 4) /* the signal was ignored: there is no handler for it */
#define ACT_KERNEL   (1 << 5) /* the kernel sent it by itself */

struct kubelet_act {
	KT_WHOSE; /* of a container's process its container's; device: always 0 */
	enum kubelet_what what;
	kt_duration_ns duration; /* user space's: of what is told */
	kt_duration_ns cpu;	 /* of the process, its threads and the children that it waited for */
	kt_duration_ns
	    runtime_cpu; /* what it had used when it executed the program; of an agent, without children */
	kt_duration_ns period; /* user space's: how regularly it comes */
	kt_bytes sent;	       /* user space's, of a connection */
	kt_bytes received;
	kt_boot_ns begun;
	__s32 status; /* as wait(2) gives it; errno of a connection */
	__u32 number; /* of the signal */
	__u32 cause;  /* the process that did it: sender, who moved it in, parent */
	__u32 flags;
	__u16 port;
	__u16 text_bytes;
	__u16 text_cut; /* whether the command line was longer */
	__u16 times;	/* user space's: of how many it is one, in a period */
	char address[16];
	char comm[16];
	char cause_comm[16];
	char text[1024 - 8 - 168]; /* the command line, each argument ended by a NUL */
};
KT_STREAM(acts, kubelet_act, 1024 * 1024);

/* A connection that the kubelet has made, when it ends. */
struct kubelet_connection {
	KT_WHOSE; /* the kubelet's */
	__u32 port;
	kt_boot_ns begun;
	kt_duration_ns connecting; /* until it was answered, or given up */
	kt_duration_ns duration;   /* until either side ended it */
	kt_bytes sent;
	kt_bytes received;
	kt_cgroup_id
	    server;  /* in which the socket was made that answered, where that is on this node; else 0 */
	__s32 error; /* of the socket, a positive errno */
	__u32 established;
	char address[16]; /* IPv6, IPv4 as ::ffff:a.b.c.d */
	__u32 local_port; /* the kubelet's */
	__u32 zero;
};
KT_STREAM(connections, kubelet_connection, 128 * 1024);

/* Processes that a runtime has moved into a container. */
struct entered {
	kt_boot_ns begun;
	kt_duration_ns cpu;
	__u32 mover;
	__u32 executed;
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, __u32); /* tgid */
	__type(value, struct entered);
} entered SEC(".maps");

/* Containers' first processes, as in cgroups. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32); /* tgid */
	__type(value, struct kt_cgroups);
} inits SEC(".maps");

/* What has ended: the one that is told of a signal may be, before the one that has sent it has told it. */
struct ended {
	__u64 begun; /* task_struct.start_boottime: memory is given again */
	__u32 flags;
	__u32 zero;
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct task_struct *); /* the first thread */
	__type(value, struct ended);
} gone SEC(".maps");

/* The programs of a runtime, and what the kubelet executes. */
struct agent {
	kt_boot_ns begun;
	__u32 entered; /* the process that it has moved into a container; 0: none */
	__u32 zero;
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, __u32); /* tgid */
	__type(value, struct agent);
} agents SEC(".maps");

/* Whom a thread has killed last, in the name of the kernel; mark_victim comes next, in the same thread. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64); /* pid_tgid */
	__type(value, struct task_struct *);
} victims SEC(".maps");

static __always_inline struct kubelet_act *act_begin(__u32 what, const struct kt_cgroups *who)
{
	struct kubelet_act *event = bpf_ringbuf_reserve(&acts, sizeof(*event), 0);

	if (!event) {
		kt_lost(kt_loss_ring_full);
		return 0;
	}
	__builtin_memset(event, 0, sizeof(*event));
	kt_whose(event, who);
	event->what = what;
	return event;
}

static __always_inline void act_end(struct kubelet_act *event)
{
	bpf_ringbuf_submit(event, kt_wake(&acts, sizeof(*event)));
}

static __always_inline int act_created(struct bpf_raw_tracepoint_args *ctx)
{
	struct kt_cgroups who;

	if (kt_cgroup_itself((struct cgroup *)ctx->args[0], &who))
		kt_cgroup_is_born(&who);
	return 0;
}

KT_RAW_TP(created, "cgroup_mkdir", act_created(ctx))

static __always_inline int act_removed(struct bpf_raw_tracepoint_args *ctx)
{
	struct kt_cgroup_key key;
	struct kt_cgroups who;

	if (!kt_cgroup_itself((struct cgroup *)ctx->args[0], &who))
		return 0;
	kt_cgroup_key_of(&key, &who);
	bpf_map_delete_elem(&born, &key);
	return 0;
}

KT_RAW_TP(removed, "cgroup_rmdir", act_removed(ctx))

static __always_inline void act_enters(struct task_struct *task, struct agent *agent, __u32 mover)
{
	struct entered in = {.begun = bpf_ktime_get_boot_ns(), .mover = mover};
	__u32 pid = BPF_CORE_READ(task, tgid);

	agent->entered = pid;
	if (bpf_map_lookup_elem(&entered, &pid))
		return;
	if (bpf_map_update_elem(&entered, &pid, &in, BPF_ANY))
		kt_lost(kt_loss_map_full);
}

/* runc writes the pid of what it has forked into cgroup.procs; with v1 once for each controller. */
static __always_inline int act_attached(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx->args[2];
	__u32 mover = bpf_get_current_pid_tgid() >> 32;
	struct agent *agent = bpf_map_lookup_elem(&agents, &mover);
	struct kt_cgroups who;

	if (!agent || BPF_CORE_READ(task, pid) != BPF_CORE_READ(task, tgid))
		return 0;
	if (kt_cgroup_itself((struct cgroup *)ctx->args[0], &who))
		act_enters(task, agent, mover);
	return 0;
}

KT_RAW_TP(attached, "cgroup_attach_task", act_attached(ctx))

/* clone3 with CLONE_INTO_CGROUP moves nothing: the child of a runtime's program begins in another cgroup. */
static __always_inline int act_forked(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *parent = (struct task_struct *)ctx->args[0];
	struct task_struct *child = (struct task_struct *)ctx->args[1];
	__u32 mover = bpf_get_current_pid_tgid() >> 32;
	struct agent *agent = bpf_map_lookup_elem(&agents, &mover);

	if (!agent || BPF_CORE_READ(child, pid) != BPF_CORE_READ(child, tgid))
		return 0;
	if (BPF_CORE_READ(child, cgroups) != BPF_CORE_READ(parent, cgroups))
		act_enters(child, agent, mover);
	return 0;
}

KT_RAW_TP(forked, "sched_process_fork", act_forked(ctx))

/* The first eight bytes of a name in `names`, which has eight for each. */
static __always_inline bool act_is_called(const char *comm, const char *names, __u32 count)
{
	const __u64 *wanted = (const __u64 *)names;
	__u64 first;

	__builtin_memcpy(&first, comm, 8);
	for (__u32 at = 0; at < count; at++) {
		if (first == wanted[at])
			return true;
	}
	return false;
}

/* The kubelet, alone or in one process with others: microk8s' kubelite, k3s' server and agent. */
static __always_inline bool act_is_kubelet(struct task_struct *task)
{
	static const char names[] = "kubelet\0kubelitek3s-servk3s-agen";
	char comm[16] __attribute__((aligned(8))) = {};

	bpf_probe_read_kernel_str(comm, sizeof(comm), task->comm);
	return act_is_called(comm, names, 4);
}

/* A program that a runtime consists of, by its name: runc, crun, youki, conmon, containerd-shim-runc-v2. */
static __always_inline bool act_is_runtime(const char *comm)
{
	static const char names[] = "runc\0\0\0\0crun\0\0\0\0youki\0\0\0conmon\0\0containe";
	__u64 second;

	if (!act_is_called(comm, names, 5))
		return false;
	/* not containerd itself */
	__builtin_memcpy(&second, comm + 8, 8);
	return comm[0] != 'c' || comm[2] != 'n' || comm[3] != 't' || second == *(const __u64 *)"rd-shim\0";
}

/* The arguments of a program that is executed now: its stack has just been written. */
struct mm_struct___arguments {
	unsigned long arg_start;
	unsigned long arg_end;
} __attribute__((preserve_access_index));

static __always_inline void act_arguments(struct kubelet_act *event, struct linux_binprm *bprm)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct mm_struct___arguments *mm = (void *)BPF_CORE_READ(task, mm);
	__u64 start = BPF_CORE_READ(mm, arg_start);
	__u64 bytes = BPF_CORE_READ(mm, arg_end) - start;
	long read;

	if (bytes > sizeof(event->text)) {
		bytes = sizeof(event->text);
		event->text_cut = 1;
	}
	if (bytes && !bpf_probe_read_user(event->text, bytes, (const void *)start)) {
		event->text_bytes = bytes;
		return;
	}
	read = bpf_probe_read_kernel_str(event->text, sizeof(event->text), BPF_CORE_READ(bprm, filename));
	event->text_bytes = read > 0 ? read : 0;
}

static __always_inline __u64 act_own_cpu(struct task_struct *task)
{
	return BPF_CORE_READ(task, signal, sum_sched_runtime) + BPF_CORE_READ(task, se.sum_exec_runtime);
}

/* What a process has used, with its threads and the children that it waited for. cutime and cstime are
 * exact: they are scaled to what the children ran (kernel/exit.c, wait_task_zombie). */
static __always_inline __u64 act_cpu(struct task_struct *task)
{
	struct signal_struct *signal = BPF_CORE_READ(task, signal);

	return act_own_cpu(task) + BPF_CORE_READ(signal, cutime) + BPF_CORE_READ(signal, cstime);
}

static __always_inline void act_process(struct kubelet_act *event)
{
	event->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
}

static __always_inline int act_exec(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct linux_binprm *bprm = (struct linux_binprm *)ctx->args[2];
	struct task_struct *parent = BPF_CORE_READ(task, real_parent, group_leader);
	char comm[16] __attribute__((aligned(8))) = {};
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct agent fresh = {.begun = bpf_ktime_get_boot_ns()};
	struct entered *in = bpf_map_lookup_elem(&entered, &pid);
	struct kubelet_act *event;
	struct kt_cgroups who;
	bool agent, own = false;
	__u32 *first;

	kt_current_cgroups(&who);
	if (kt_excluded(&who))
		return 0;
	if (in)
		own = !in->executed;
	first = kt_cgroup_born(&who);
	if (first)
		own |= !*first;
	if (!own) {
		bpf_get_current_comm(comm, sizeof(comm));
		agent = act_is_runtime(comm);
		if (!agent && !act_is_kubelet(parent))
			return 0;
		event = act_begin(kubelet_agent_began, &who);
		if (!event)
			return 0;
		act_process(event);
		bpf_probe_read_kernel_str(event->text, sizeof(event->text), BPF_CORE_READ(bprm, filename));
		if (kt_is_runtime(event->text)) {
			/* runc init: a part of the runc that has forked it, which waits for it */
			bpf_ringbuf_discard(event, BPF_RB_NO_WAKEUP);
			return 0;
		}
		if (bpf_map_update_elem(&agents, &pid, &fresh, BPF_ANY))
			kt_lost(kt_loss_map_full);
		act_arguments(event, bprm);
		event->cause = BPF_CORE_READ(parent, tgid);
		bpf_probe_read_kernel_str(event->cause_comm, sizeof(event->cause_comm), parent->comm);
		act_end(event);
		return 0;
	}
	event = act_begin(kubelet_began, &who);
	if (!event)
		return 0;
	act_process(event);
	bpf_probe_read_kernel_str(event->text, sizeof(event->text), BPF_CORE_READ(bprm, filename));
	if (kt_is_runtime(event->text)) {
		bpf_ringbuf_discard(event, BPF_RB_NO_WAKEUP);
		return 0;
	}
	if (kt_is_first(&who, event->text, pid)) {
		event->flags |= ACT_FIRST;
		if (bpf_map_update_elem(&inits, &pid, &who, BPF_ANY))
			kt_lost(kt_loss_map_full);
	}
	if (in) {
		in->executed = 1;
		in->cpu = act_cpu(task);
		event->runtime_cpu = in->cpu;
		event->begun = in->begun;
		event->cause = in->mover;
		event->flags |= ACT_ENTERED;
	}
	event->flags |= ACT_EXECUTED;
	if (BPF_CORE_READ(task, signal, tty))
		event->flags |= ACT_TERMINAL;
	act_arguments(event, bprm);
	act_end(event);
	return 0;
}

KT_RAW_TP(exec, "sched_process_exec", act_exec(ctx))

/* The last thread of a process exits. */
static __always_inline int act_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx->args[0];
	struct signal_struct *signal = BPF_CORE_READ(task, signal);
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);
	__u32 pid = BPF_CORE_READ(task, tgid), flags = 0, what = kubelet_ended, number = 0;
	struct entered in = {}, *found;
	struct ended was = {};
	struct kubelet_act *event;
	struct kt_cgroups who, *init;
	struct agent *agent;

	if (BPF_CORE_READ(signal, live.counter) > 0)
		return 0;
	kt_current_cgroups(&who);
	agent = bpf_map_lookup_elem(&agents, &pid);
	if (agent) {
		in.begun = agent->begun;
		number = agent->entered;
		what = kubelet_agent_ended;
		bpf_map_delete_elem(&agents, &pid);
	}
	found = bpf_map_lookup_elem(&entered, &pid);
	if (found) {
		in = *found;
		flags |= ACT_ENTERED;
		bpf_map_delete_elem(&entered, &pid);
	}
	init = bpf_map_lookup_elem(&inits, &pid);
	if (init) {
		who = *init;
		flags |= ACT_FIRST;
		bpf_map_delete_elem(&inits, &pid);
	}
	/* or clang asks for the pointers themselves, joined by a bitwise or, which the verifier refuses */
	asm volatile("" : "+r"(flags), "+r"(what));
	if (what == kubelet_ended && !flags) {
		if (!kt_was_first(leader, &who))
			return 0;
		flags |= ACT_FIRST;
	}
	if (kt_excluded(&who))
		return 0;
	if (flags) {
		was.begun = BPF_CORE_READ(leader, start_boottime);
		was.flags = flags;
		bpf_map_update_elem(&gone, &leader, &was, BPF_ANY);
	}
	event = act_begin(what, &who);
	if (!event)
		return 0;
	event->pid = pid;
	bpf_probe_read_kernel_str(event->comm, sizeof(event->comm), leader->comm);
	event->cpu = act_cpu(task);
	event->begun = in.begun;
	event->cause = in.mover;
	event->number = number;
	event->runtime_cpu = in.executed ? in.cpu : event->cpu;
	if (what == kubelet_agent_ended)
		event->runtime_cpu = act_own_cpu(task);
	event->flags = flags | (in.executed ? ACT_EXECUTED : 0);
	/* SIGNAL_GROUP_EXIT (include/linux/sched/signal.h), as in cgroups */
	if (BPF_CORE_READ(signal, flags) & 4)
		event->status = BPF_CORE_READ(signal, group_exit_code);
	else
		event->status = BPF_CORE_READ(leader, exit_code);
	act_end(event);
	return 0;
}

KT_RAW_TP(exit, "sched_process_exit", act_exit(ctx))

/* The same of one that has ended already, or that was there before us. */
static __always_inline __u32 act_of_ended(struct task_struct *task, const struct kt_cgroups *who,
					  bool ignored)
{
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);
	struct ended *was = bpf_map_lookup_elem(&gone, &leader);

	if (was && was->begun == BPF_CORE_READ(leader, start_boottime))
		return ignored ? 0 : was->flags; /* one that nobody has waited for yet ignores all */
	return kt_was_first(leader, who) ? ACT_FIRST : 0;
}

/*
 * A signal to a container's first process, or to one that was executed into it, by somebody elsewhere. In the
 * thread that sends it. The last argument is TRACE_SIGNAL_IGNORED (include/trace/events/signal.h) where the
 * process has no handler and the signal does not end it: that is so of every first process of a PID
 * namespace.
 */
static __always_inline int act_signal(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx->args[2], *current;
	__u64 thread = bpf_get_current_pid_tgid(), info = ctx->args[1];
	__u32 number = ctx->args[0], result = ctx->args[4], pid, flags = 0;
	struct kubelet_act *event;
	struct kt_cgroups who;

	/* SIGCHLD is what most signals are; SEND_SIG_PRIV (include/linux/sched/signal.h) is 1 */
	if (number == 17)
		return 0;
	if (number == 9 && info == 1)
		bpf_map_update_elem(&victims, &thread, &task, BPF_ANY);
	current = (struct task_struct *)bpf_get_current_task();
	if (BPF_CORE_READ(task, cgroups) == BPF_CORE_READ(current, cgroups))
		return 0;
	pid = BPF_CORE_READ(task, tgid);
	kt_task_cgroups(task, &who);
	if (kt_excluded(&who))
		return 0;
	if (bpf_map_lookup_elem(&inits, &pid))
		flags |= ACT_FIRST;
	else if (bpf_map_lookup_elem(&entered, &pid))
		flags |= ACT_ENTERED;
	else
		flags |= act_of_ended(task, &who, result == 1);
	if (!flags)
		return 0;
	event = act_begin(kubelet_signalled, &who);
	if (!event)
		return 0;
	event->pid = pid;
	bpf_probe_read_kernel_str(event->comm, sizeof(event->comm), task->comm);
	event->cause = thread >> 32;
	bpf_get_current_comm(event->cause_comm, sizeof(event->cause_comm));
	event->number = number;
	event->flags = flags | (result == 1 ? ACT_IGNORED : 0) | (info == 1 ? ACT_KERNEL : 0);
	act_end(event);
	return 0;
}

KT_RAW_TP(signal, "signal_generate", act_signal(ctx))

/* A process is killed for want of memory, in the thread that asked for it. */
static __always_inline int act_oom(struct bpf_raw_tracepoint_args *ctx)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct task_struct *victim, **killed;
	struct kubelet_act *event;
	struct kt_cgroups who;
	__u32 pid;

	if (kt_mark_victim_gives_task()) {
		victim = (struct task_struct *)ctx->args[0];
	} else {
		killed = bpf_map_lookup_elem(&victims, &thread);
		if (!killed)
			return 0;
		victim = *killed;
	}
	kt_task_cgroups(victim, &who);
	if (kt_excluded(&who))
		return 0;
	event = act_begin(kubelet_chosen, &who);
	if (!event)
		return 0;
	pid = event->pid = BPF_CORE_READ(victim, tgid);
	if (bpf_map_lookup_elem(&inits, &pid) || kt_was_first(BPF_CORE_READ(victim, group_leader), &who))
		event->flags = ACT_FIRST;
	bpf_probe_read_kernel_str(event->comm, sizeof(event->comm), victim->comm);
	act_end(event);
	return 0;
}

KT_RAW_TP(oom, "mark_victim", act_oom(ctx))

/* Connections that the kubelet makes, from their begin on. */
struct connection {
	kt_boot_ns begun;
	kt_boot_ns established;
	kt_boot_ns ended;
	struct kt_cgroups who;
	kt_cgroup_id server;
	__u32 pid;
	__u16 port;
	__u16 local_port;
	kt_bytes sent;
	kt_bytes received;
	struct kt_address address;
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct sock *);
	__type(value, struct connection);
} connecting SEC(".maps");

/* Those that were answered, as the other side sees them. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct kt_peer);
	__type(value, struct sock *);
} answered SEC(".maps");

static __always_inline void connection_told(const struct connection *made, struct sock *sock)
{
	struct kubelet_connection *event = bpf_ringbuf_reserve(&connections, sizeof(*event), 0);
	kt_boot_ns now = bpf_ktime_get_boot_ns();

	if (!event) {
		kt_lost(kt_loss_ring_full);
		return;
	}
	__builtin_memset(event, 0, sizeof(*event));
	kt_whose(event, &made->who);
	event->pid = made->pid;
	event->port = made->port;
	event->local_port = made->local_port;
	event->begun = made->begun;
	event->established = made->established != 0;
	event->connecting = (made->established ? made->established : now) - made->begun;
	event->duration = (made->ended ? made->ended : now) - made->begun;
	event->sent = made->sent;
	event->received = made->received;
	event->server = made->server;
	event->error = BPF_CORE_READ(sock, sk_err);
	__builtin_memcpy(event->address, &made->address, sizeof(event->address));
	bpf_ringbuf_submit(event, kt_wake(&connections, sizeof(*event)));
}

/* The socket that answers is another one: it says in which cgroup it was made. */
static __always_inline void connection_answered(struct sock *sock)
{
	struct connection *made;
	struct kt_peer peer;
	struct sock **client;

	kt_peer_of(&peer, sock);
	client = bpf_map_lookup_elem(&answered, &peer);
	if (!client)
		return;
	made = bpf_map_lookup_elem(&connecting, client);
	if (made)
		made->server = kt_socket_cgroup(sock);
	bpf_map_delete_elem(&answered, &peer);
}

static __always_inline int connection_state(struct bpf_raw_tracepoint_args *ctx)
{
	struct sock *sock = (struct sock *)ctx->args[0];
	__u32 before = ctx->args[1], state = ctx->args[2];
	struct connection *made, fresh = {};
	struct task_struct *task;
	struct kt_peer peer;

	if (before == TCP_SYN_RECV) {
		if (state == TCP_ESTABLISHED)
			connection_answered(sock);
		return 0;
	}
	if (before == TCP_CLOSE && state == TCP_SYN_SENT) {
		task = (struct task_struct *)bpf_get_current_task();
		if (!act_is_kubelet(BPF_CORE_READ(task, group_leader)))
			return 0;
		fresh.begun = bpf_ktime_get_boot_ns();
		fresh.pid = bpf_get_current_pid_tgid() >> 32;
		kt_current_cgroups(&fresh.who);
		kt_remote_address(&fresh.address, sock);
		fresh.port = kt_remote_port(sock);
		if (bpf_map_update_elem(&connecting, &sock, &fresh, BPF_ANY))
			kt_lost(kt_loss_map_full);
		return 0;
	}
	made = bpf_map_lookup_elem(&connecting, &sock);
	if (!made)
		return 0;
	if (before == TCP_SYN_SENT && state == TCP_ESTABLISHED) {
		made->established = bpf_ktime_get_boot_ns();
		kt_peer_of_other(&peer, sock);
		made->local_port = peer.client_port;
		bpf_map_update_elem(&answered, &peer, &sock, BPF_ANY);
		return 0;
	}
	if (before == TCP_ESTABLISHED) {
		made->ended = bpf_ktime_get_boot_ns();
		kt_socket_bytes(sock, &made->sent, &made->received);
		/* the end itself takes the place of a byte (tcp_fin) */
		if (state == TCP_CLOSE_WAIT && made->received)
			made->received -= 1;
	}
	if (state == TCP_CLOSE) {
		connection_told(made, sock);
		bpf_map_delete_elem(&connecting, &sock);
	}
	return 0;
}

KT_RAW_TP(connection, "inet_sock_set_state", connection_state(ctx))
