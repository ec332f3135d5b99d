// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The least that counts writes by cgroup and mount: what writes.py holds the tracer's cost against. */
#include "hooks.bpf.h"
#include "stream.bpf.h"
#include "who.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct minimal_key {
	__u64 cgroup_id;
	__u32 device;
	__u32 mount_id;
};
struct minimal_value {
	__u64 count;
	__u64 bytes;
};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, struct minimal_key);
	__type(value, struct minimal_value);
} counts SEC(".maps");

SEC("fexit/vfs_write")
int BPF_PROG(minimal__fentry, struct file *file, const char *buffer, __u64 count, void *position,
	     __s64 result)
{
	struct vfsmount *mnt = file->f_path.mnt;
	struct mount *mount = (void *)mnt - bpf_core_field_offset(struct mount, mnt);
	struct minimal_key key = {
	    .cgroup_id = bpf_get_current_cgroup_id(),
	    .device = mnt->mnt_sb->s_dev,
	    .mount_id = BPF_CORE_READ(mount, mnt_id),
	};
	struct minimal_value *value = bpf_map_lookup_elem(&counts, &key);
	struct minimal_value first = {};

	if (result <= 0)
		return 0;
	if (!value) {
		bpf_map_update_elem(&counts, &key, &first, BPF_NOEXIST);
		value = bpf_map_lookup_elem(&counts, &key);
		if (!value)
			return 0;
	}
	__sync_fetch_and_add(&value->count, 1);
	__sync_fetch_and_add(&value->bytes, result);
	return 0;
}
