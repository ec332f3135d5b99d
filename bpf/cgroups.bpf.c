/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * cgroups: how pods begin, what they are denied and how they end, as the kernel's cgroup code tells it.
 *
 * Nearly all of it comes from raw tracepoints: they need neither tracefs nor kprobes, and exist since 4.17
 * (the tracepoints behind them since 4.8 at the latest; cgroup_freeze since 5.2). Only a refused fork has
 * none.
 *
 * Not here: CPU throttling is read from cpu.stat (tracers/cgroups/usage.py). throttle_cfs_rq runs per CPU and
 * period, the file has the same sums, and since 6.18 it is tasks that are throttled, not run queues.
 */
#include "cgroup_births.bpf.h"
#include "cgroup_first.bpf.h"
#include "task_cgroups.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile kt_duration_ns min_stall_ns = 0;
const volatile kt_bytes page_bytes = 4096;

/* The groups of programs that have a backup. */
/* clang-format off */
#define CGROUPS_GROUPS(X)                                                                                    \
	X(created) X(removed) X(attached) X(exec) X(exit) X(oom)                                             \
	X(reclaim) X(return_reclaim) X(frozen) X(thawed)
/* clang-format on */
KT_GROUPS(CGROUPS_GROUPS);

/* What happened; `throttled` is user space's. */
enum cgroups_event {
	cgroups_created,
	cgroups_removed,
	cgroups_attached,
	cgroups_exec,
	cgroups_exit,
	cgroups_oom_kill,
	cgroups_throttled,
	cgroups_reclaim,
	cgroups_fork_refused,
	cgroups_frozen,
	cgroups_thawed,
};

struct cgroups_activity {
	KT_WHOSE; /* device: always 0; pid, comm: of an oom_kill the victim's */
	enum cgroups_event event;
	kt_duration_ns duration; /* of a stall */
	kt_bytes memory;	 /* oom_kill: what the victim had resident */
	kt_bytes limit;		 /* oom_kill, reclaim: the one that was hit; 0: none, the node's memory */
	__s32 status;		 /* exit: as wait(2) gives it */
	__u32 periods;		 /* throttled: so many; fork_refused: so often */
	__u16 path_bytes;
	__u16 first; /* exec, exit: of the process that the cgroup was made for */
	struct {
		__u64 high, max, oom, oom_kill;
	} events;      /* oom_kill: memory.events of the victim's memory cgroup, this kill included */
	kt_bytes swap; /* oom_kill: what the victim had swapped out */
	__u32 group;   /* oom_kill: of a kill of all in a cgroup, the process that was chosen; 0: it alone */
	__u16 limit_levels;  /* oom_kill: the limit is this many cgroups above the victim's */
	__s16 memory_deeper; /* oom_kill: the victim's memory cgroup is this many deeper than its own in v2 */
	char comm[16];
	char path[512 - 8 - 144]; /* exec: as it was given to execve */
};
KT_STREAM(activity, cgroups_activity, 4 * 1024 * 1024);

/* Those processes -> where they became that; a container with systemd moves its init to another cgroup. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32); /* tgid */
	__type(value, struct kt_cgroups);
} inits SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384); /* threads in reclaim at one time */
	__type(key, __u64);	    /* pid_tgid */
	__type(value, kt_boot_ns);
} stalls SEC(".maps");

/* Whom oom_kill_process is about, by the thread that it runs in; only 5.10's tracepoint does not say. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64); /* pid_tgid */
	__type(value, struct task_struct *);
} victims SEC(".maps");

static __always_inline struct cgroups_activity *activity_begin(__u32 what, const struct kt_cgroups *who)
{
	struct cgroups_activity *event = bpf_ringbuf_reserve(&activity, sizeof(*event), 0);

	if (!event) {
		kt_lost(kt_loss_ring_full);
		return 0;
	}
	__builtin_memset(event, 0, sizeof(*event));
	kt_whose(event, who);
	event->event = what;
	return event;
}

/* The process that runs. */
static __always_inline void activity_process(struct cgroups_activity *event)
{
	event->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
}

static __always_inline void activity_end(struct cgroups_activity *event)
{
	bpf_ringbuf_submit(event, kt_wake(&activity, sizeof(*event)));
}

static __always_inline int activity_created(struct bpf_raw_tracepoint_args *ctx)
{
	struct cgroups_activity *event;
	struct kt_cgroups who;

	if (!kt_cgroup_itself((struct cgroup *)ctx->args[0], &who))
		return 0;
	kt_cgroup_is_born(&who);
	event = activity_begin(cgroups_created, &who);
	if (event)
		activity_end(event);
	return 0;
}

KT_RAW_TP(created, "cgroup_mkdir", activity_created(ctx))

static __always_inline int activity_removed(struct bpf_raw_tracepoint_args *ctx)
{
	struct cgroups_activity *event;
	struct kt_cgroup_key key;
	struct kt_cgroups who;

	if (!kt_cgroup_itself((struct cgroup *)ctx->args[0], &who))
		return 0;
	kt_cgroup_key_of(&key, &who);
	bpf_map_delete_elem(&born, &key);
	event = activity_begin(cgroups_removed, &who);
	if (event)
		activity_end(event);
	return 0;
}

KT_RAW_TP(removed, "cgroup_rmdir", activity_removed(ctx))

/* Once for each thread that moves; a whole process is told by its leader. */
static __always_inline int activity_attached(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx->args[2];
	struct cgroups_activity *event;
	struct kt_cgroups who;

	if (BPF_CORE_READ(task, pid) != BPF_CORE_READ(task, tgid))
		return 0;
	if (!kt_cgroup_itself((struct cgroup *)ctx->args[0], &who))
		return 0;
	event = activity_begin(cgroups_attached, &who);
	if (!event)
		return 0;
	event->pid = BPF_CORE_READ(task, tgid);
	bpf_probe_read_kernel_str(event->comm, sizeof(event->comm), task->comm);
	activity_end(event);
	return 0;
}

KT_RAW_TP(attached, "cgroup_attach_task", activity_attached(ctx))

static __always_inline int activity_exec(struct bpf_raw_tracepoint_args *ctx)
{
	struct linux_binprm *bprm = (struct linux_binprm *)ctx->args[2];
	struct cgroups_activity *event;
	struct kt_cgroups who;
	__u32 pid;
	long read;

	kt_current_cgroups(&who);
	if (kt_excluded(&who))
		return 0;
	event = activity_begin(cgroups_exec, &who);
	if (!event)
		return 0;
	activity_process(event);
	read = bpf_probe_read_kernel_str(event->path, sizeof(event->path), BPF_CORE_READ(bprm, filename));
	event->path_bytes = read > 0 ? read - 1 : 0;
	pid = event->pid;
	if (kt_is_first(&who, event->path, pid)) {
		event->first = 1;
		bpf_map_update_elem(&inits, &pid, &who, BPF_ANY);
	}
	activity_end(event);
	return 0;
}

KT_RAW_TP(exec, "sched_process_exec", activity_exec(ctx))

/* The last thread of a process exits; its status is what wait_task_zombie would give its parent. */
static __always_inline int activity_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (struct task_struct *)ctx->args[0];
	struct signal_struct *signal = BPF_CORE_READ(task, signal);
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);
	struct cgroups_activity *event;
	struct kt_cgroups who, *init;
	__u32 pid = BPF_CORE_READ(task, tgid);

	if (BPF_CORE_READ(signal, live.counter) > 0)
		return 0;
	init = bpf_map_lookup_elem(&inits, &pid);
	if (init) {
		who = *init;
		bpf_map_delete_elem(&inits, &pid);
	} else {
		kt_current_cgroups(&who);
		if (!kt_was_first(leader, &who))
			return 0;
	}
	if (kt_excluded(&who))
		return 0;
	event = activity_begin(cgroups_exit, &who);
	if (!event)
		return 0;
	event->pid = pid;
	event->first = 1;
	bpf_probe_read_kernel_str(event->comm, sizeof(event->comm), leader->comm);
	/* SIGNAL_GROUP_EXIT (include/linux/sched/signal.h): exit_group(2) or a deadly signal */
	if (BPF_CORE_READ(signal, flags) & 4)
		event->status = BPF_CORE_READ(signal, group_exit_code);
	else
		event->status = BPF_CORE_READ(leader, exit_code);
	activity_end(event);
	return 0;
}

KT_RAW_TP(exit, "sched_process_exit", activity_exit(ctx))

static __always_inline struct page_counter *activity_counter_of(struct cgroup_subsys_state *css)
{
	return (void *)css - bpf_core_field_offset(struct mem_cgroup, css) +
	       bpf_core_field_offset(struct mem_cgroup, memory);
}

/* Pages between use and limit; `soft`: memory.high counts as one. */
static __always_inline __s64 activity_room(struct page_counter *counter, bool soft, __u64 *limit)
{
	__u64 max = BPF_CORE_READ(counter, max);

	if (soft && bpf_core_field_exists(counter->high)) {
		__u64 high = BPF_CORE_READ(counter, high);

		if (high < max)
			max = high;
	}
	*limit = max;
	return (__s64)max - (__s64)BPF_CORE_READ(counter, usage.counter);
}

/* Cgroups on the way up that are looked at. */
#define ACTIVITY_DEPTH 16

/* Where a limit was hit: 0 for none. No number of a turn of a loop is kept: the verifier would walk each. */
struct activity_limit {
	__u64 pages;
	struct cgroup_subsys_state *css;
};

static __always_inline struct cgroup_subsys_state *activity_css_of(struct page_counter *counter)
{
	return (void *)counter - bpf_core_field_offset(struct mem_cgroup, memory) +
	       bpf_core_field_offset(struct mem_cgroup, css);
}

/*
 * The limit that memory ran into, of `task`'s memory cgroup and those above. A charge goes up from the cgroup
 * that asks and fails at the first that is full (try_charge_memcg, mm/memcontrol.c), and nobody is killed
 * once that one has room again (mem_cgroup_out_of_memory): so it is the first full one on the way up from
 * who asks, where that is above `task` too (the pod's limit, that another container ran into). Where none is
 * full by now, the one with least room left counts, if that is no more than a failing charge asks for (64
 * pages: MEMCG_CHARGE_BATCH; larger orders never lead to a kill).
 */
static __always_inline void activity_limit(struct task_struct *task, struct task_struct *asking, bool soft,
					   struct activity_limit *hit)
{
	struct cgroup_subsys_state *css = kt_memory_of(task), *from = asking ? kt_memory_of(asking) : 0;
	struct page_counter *counter, *full = 0;
	bool settled = false;
	__s64 least = 65;
	__u64 limit = 0;

	hit->pages = 0;
	hit->css = 0;
	if (!css)
		return;
	counter = from ? activity_counter_of(from) : 0;
	for (int depth = 0; depth < ACTIVITY_DEPTH && counter; depth++) {
		if (activity_room(counter, soft, &limit) <= 0) {
			full = counter;
			break;
		}
		counter = BPF_CORE_READ(counter, parent);
	}
	counter = activity_counter_of(css);
	for (int depth = 0; depth < ACTIVITY_DEPTH && counter; depth++) {
		__s64 room = activity_room(counter, soft, &limit);

		if (counter == full || (!settled && room < least)) {
			hit->pages = limit;
			hit->css = activity_css_of(counter);
			least = room;
		}
		if (counter == full)
			break;
		settled = settled || room <= 0;
		counter = BPF_CORE_READ(counter, parent);
	}
}

static __always_inline __u64 activity_counter(const struct mem_cgroup *memcg, __u32 index)
{
	atomic_long_t count = {};

	bpf_probe_read_kernel(&count, sizeof(count),
			      (void *)memcg + bpf_core_field_offset(memcg->memory_events) +
				  index * sizeof(count));
	return count.counter;
}

/* A kill of all processes in a cgroup (memory.oom.group), by the thread that does it. */
struct activity_group {
	__u64 memcg; /* its address */
	kt_boot_ns time;
	__u32 chosen;
	__u32 unused;
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64); /* pid_tgid */
	__type(value, struct activity_group);
} group_kills SEC(".maps");

/* The kernel goes through the group without a pause; one that is as old was another kill. */
#define ACTIVITY_GROUP_NS 1000000000ULL

/*
 * Whether all in a cgroup are killed with this one: the highest with memory.oom.group, from the victim's up
 * to the one whose limit was hit (mem_cgroup_get_oom_group; without a limit, up to the root). The first that
 * is marked is the one that was chosen (oom_kill_process), and is what the others are said to go with.
 */
static __always_inline __u32 activity_group_of(struct cgroup_subsys_state *css,
					       const struct activity_limit *hit, __u32 pid, kt_boot_ns now)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct activity_group *known, made = {};
	struct mem_cgroup *memcg = 0;

	if (!css || !bpf_core_field_exists(memcg->oom_group))
		return 0;
	for (int depth = 0; depth < ACTIVITY_DEPTH && css; depth++) {
		memcg = (void *)css - bpf_core_field_offset(struct mem_cgroup, css);
		if (BPF_CORE_READ(memcg, oom_group))
			made.memcg = (__u64)memcg;
		if (css == hit->css)
			break;
		css = BPF_CORE_READ(css, parent);
	}
	if (!made.memcg)
		return 0;
	known = bpf_map_lookup_elem(&group_kills, &thread);
	if (known && known->memcg == made.memcg && now - known->time < ACTIVITY_GROUP_NS) {
		known->time = now;
		return known->chosen;
	}
	made.time = now;
	made.chosen = pid;
	bpf_map_update_elem(&group_kills, &thread, &made, BPF_ANY);
	return pid;
}

/* Runs in the thread that asked for memory, before the victim gives any back: it is the victim that is told.
 */
static __always_inline int activity_oom(struct bpf_raw_tracepoint_args *ctx)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct task_struct *victim, **chosen;
	struct cgroup_subsys_state *css, *full;
	struct cgroups_activity *event;
	struct activity_limit hit;
	struct mem_cgroup *memcg;
	struct kt_cgroups who;

	if (kt_mark_victim_gives_task()) {
		victim = (struct task_struct *)ctx->args[0];
	} else {
		chosen = bpf_map_lookup_elem(&victims, &thread);
		victim = chosen ? *chosen : (struct task_struct *)bpf_get_current_task();
	}
	kt_task_cgroups(victim, &who);
	if (kt_excluded(&who))
		return 0;
	event = activity_begin(cgroups_oom_kill, &who);
	if (!event)
		return 0;
	event->pid = BPF_CORE_READ(victim, tgid);
	bpf_probe_read_kernel_str(event->comm, sizeof(event->comm), victim->comm);
	event->memory = kt_resident_pages(BPF_CORE_READ(victim, mm)) * page_bytes;
	event->swap = kt_swapped_pages(BPF_CORE_READ(victim, mm)) * page_bytes;
	activity_limit(victim, (struct task_struct *)bpf_get_current_task(), false, &hit);
	event->limit = hit.pages * page_bytes;
	css = kt_memory_of(victim);
	full = hit.css;
	if (full)
		event->limit_levels = BPF_CORE_READ(css, cgroup, level) - BPF_CORE_READ(full, cgroup, level);
	event->memory_deeper =
	    BPF_CORE_READ(css, cgroup, level) - BPF_CORE_READ(victim, cgroups, dfl_cgrp, level);
	event->group = activity_group_of(css, &hit, event->pid, event->time);
	if (css) {
		memcg = (void *)css - bpf_core_field_offset(struct mem_cgroup, css);
		event->events.high =
		    activity_counter(memcg, bpf_core_enum_value(enum memcg_memory_event, MEMCG_HIGH));
		event->events.max =
		    activity_counter(memcg, bpf_core_enum_value(enum memcg_memory_event, MEMCG_MAX));
		event->events.oom =
		    activity_counter(memcg, bpf_core_enum_value(enum memcg_memory_event, MEMCG_OOM));
		event->events.oom_kill =
		    activity_counter(memcg, bpf_core_enum_value(enum memcg_memory_event, MEMCG_OOM_KILL));
	}
	activity_end(event);
	return 0;
}

KT_RAW_TP(oom, "mark_victim", activity_oom(ctx))

/*
 * Reclaim that a limit asked for (memory.high, memory.max, memory.reclaim), in the thread that has to wait
 * for it; kswapd's and that for want of the node's own memory are other tracepoints.
 */
static __always_inline int activity_reclaim(void)
{
	__u64 thread = bpf_get_current_pid_tgid();
	kt_boot_ns now = bpf_ktime_get_boot_ns();

	if (bpf_map_update_elem(&stalls, &thread, &now, BPF_ANY))
		kt_lost(kt_loss_map_full);
	return 0;
}

KT_RAW_TP(reclaim, "mm_vmscan_memcg_reclaim_begin", activity_reclaim())

static __always_inline int activity_return_reclaim(void)
{
	__u64 thread = bpf_get_current_pid_tgid();
	kt_boot_ns *begun = bpf_map_lookup_elem(&stalls, &thread);
	struct cgroups_activity *event;
	struct activity_limit hit;
	kt_duration_ns duration;
	struct kt_cgroups who;

	if (!begun)
		return 0;
	duration = bpf_ktime_get_boot_ns() - *begun;
	bpf_map_delete_elem(&stalls, &thread);
	if (duration < min_stall_ns)
		return 0;
	kt_current_cgroups(&who);
	if (kt_excluded(&who))
		return 0;
	event = activity_begin(cgroups_reclaim, &who);
	if (!event)
		return 0;
	activity_process(event);
	event->duration = duration;
	activity_limit((struct task_struct *)bpf_get_current_task(), 0, true, &hit);
	event->limit = hit.pages * page_bytes;
	activity_end(event);
	return 0;
}

KT_RAW_TP(return_reclaim, "mm_vmscan_memcg_reclaim_end", activity_return_reclaim())

static __always_inline int activity_state(struct bpf_raw_tracepoint_args *ctx, __u32 what)
{
	struct cgroups_activity *event;
	struct kt_cgroups who;

	if (!kt_cgroup_itself((struct cgroup *)ctx->args[0], &who))
		return 0;
	event = activity_begin(what, &who);
	if (event)
		activity_end(event);
	return 0;
}

/* v2's freezer alone has tracepoints; v1's is read from freezer.state (tracers/cgroups/usage.py). */
KT_RAW_TP(frozen, "cgroup_freeze", activity_state(ctx, cgroups_frozen))
KT_RAW_TP(thawed, "cgroup_unfreeze", activity_state(ctx, cgroups_thawed))

static __always_inline int activity_fork(int result)
{
	struct cgroups_activity *event;
	struct kt_cgroups who;

	if (result >= 0)
		return 0;
	kt_current_cgroups(&who);
	if (kt_excluded(&who))
		return 0;
	event = activity_begin(cgroups_fork_refused, &who);
	if (!event)
		return 0;
	activity_process(event);
	event->periods = 1;
	activity_end(event);
	return 0;
}

/* static, but its address is in pids_cgrp_subsys: never inlined; the same two arguments since 5.7 */
KT_RETURN_ALONE(fork, "pids_can_fork", activity_fork(result), int result, struct task_struct *task,
		struct css_set *set)

struct oom_control {
	struct task_struct *chosen;
} __attribute__((preserve_access_index));

static __always_inline int activity_victim(const struct oom_control *control)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct task_struct *chosen = BPF_CORE_READ(control, chosen);

	bpf_map_update_elem(&victims, &thread, &chosen, BPF_ANY);
	return 0;
}

KT_ENTRY_ALONE(victim, "oom_kill_process", activity_victim(control), struct oom_control *control)
