/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Cgroups as if they were their own processes, and the first program that is executed in each: what a
 * container was made for.
 */
#ifndef KT_CGROUP_FIRST_BPF_H
#define KT_CGROUP_FIRST_BPF_H

#include "who.bpf.h"

/* Cgroups made since we are attached -> the process that was first to exec in it; 0: none yet. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct kt_cgroup_key);
	__type(value, __u32); /* tgid */
} born SEC(".maps");

/*
 * A cgroup as if it were its own process. On v1 each controller has a hierarchy of its own: the memory
 * controller's speaks for all, and v2's where both are there (user space takes one of the two).
 */
static __always_inline bool kt_cgroup_itself(struct cgroup *cgroup, struct kt_cgroups *who)
{
	__u32 hierarchy = BPF_CORE_READ(cgroup, root, hierarchy_id);
	__u64 id = BPF_CORE_READ(cgroup, kn, id);

	kt_current_cgroups(who);
	if (hierarchy && hierarchy != who->memory_hierarchy)
		return false;
	who->id = hierarchy ? 0 : id;
	who->memory_id = hierarchy ? id : 0;
	who->memory_hierarchy = hierarchy;
	return !kt_excluded(who);
}

static __always_inline void kt_cgroup_key_of(struct kt_cgroup_key *key, const struct kt_cgroups *who)
{
	key->id = who->memory_hierarchy ? who->memory_id : who->id;
	key->hierarchy = who->memory_hierarchy;
}

/* Of the cgroup that a process is in, by either hierarchy. */
static __always_inline __u32 *kt_cgroup_born(const struct kt_cgroups *who)
{
	struct kt_cgroup_key key = {.id = who->id};
	__u32 *first = bpf_map_lookup_elem(&born, &key);

	if (first || !who->memory_hierarchy)
		return first;
	key.id = who->memory_id;
	key.hierarchy = who->memory_hierarchy;
	return bpf_map_lookup_elem(&born, &key);
}

/* Remember that a cgroup was made: its first program is yet to come. */
static __always_inline void kt_cgroup_is_born(const struct kt_cgroups *who)
{
	struct kt_cgroup_key key;
	__u32 nobody = 0;

	kt_cgroup_key_of(&key, who);
	bpf_map_update_elem(&born, &key, &nobody, BPF_ANY);
}

/*
 * The runtime executes itself again inside the new cgroup, from a file descriptor (runc
 * nsenter/cloned_binary.c, crun cloned_binary.c): that is not yet the process that the container was made
 * for.
 */
static __always_inline bool kt_is_runtime(const char *path)
{
	static const char prefixes[] = "/proc/self/\0\0\0\0\0/dev/fd/";
	const __u64 *wanted = (const __u64 *)prefixes;
	__u64 first, second;

	/* in words: a comparison of bytes is more paths than the verifier walks */
	__builtin_memcpy(&first, path, 8);
	__builtin_memcpy(&second, path + 8, 8);
	if (first == wanted[2])
		return true;
	return first == wanted[0] && !((second ^ wanted[1]) & 0xffffff);
}

/* Whether a process that executes `path` (8 bytes aligned, 16 at least) is the first of its cgroup to do so.
 */
static __always_inline bool kt_is_first(const struct kt_cgroups *who, const char *path, __u32 pid)
{
	__u32 *first = kt_cgroup_born(who);

	if (!first || *first || kt_is_runtime(path))
		return false;
	*first = pid;
	return true;
}

#endif
