// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* clang-format off */
/*
 * reads: who reads the files of which volumes: counters by reader and file. What is in a file is never looked at.
 *
 *   opens that may read             do_filp_open, which newer kernels call do_file_open
 *   read, readv, pread, io_uring    shmem_file_read_iter: secrets, tokens and the downward API are on tmpfs, whose own
 *                                   operation no other file system's reads pass
 *   splice, sendfile                the same, and since 6.5 shmem_file_splice_read
 *   mmap                            security_mmap_file (entry): that a file is mapped; what is read then is not seen
 *
 * What volume a file is in, the kernel knows by itself: the kubelet mounts each at
 * .../pods/UID/volumes/PLUGIN/NAME, and one of a file system's mounts is that one, whoever has which other. User space
 * is not asked, so nothing is missed of a volume that is new.
 */
/* clang-format on */
#include "call_backups.bpf.h"
#include "cgroup_births.bpf.h"
#include "reads_count.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/*
 * The programs (hooks.bpf.h). Whether a file is of a volume that is asked for is known before a program and
 * its backup ask each other who counts it.
 */
#define READS_COUNT(group, typed, file, what, amount)                                                        \
	({                                                                                                   \
		__u32 kind = reads_kind_of(file, typed);                                                     \
                                                                                                             \
		!kind || kt_call_handled(kt_backed_up_##group, copy)                                         \
		    ? 0                                                                                      \
		    : reads_count(reads_number(file), kind, what, amount, READS_ROOM(group, copy));          \
	})
/* Of a kprobe or kretprobe, which has no backup. */
#define READS_COUNT_ALONE(group, file, what, amount)                                                         \
	({                                                                                                   \
		__u32 kind = reads_kind_of(file, false);                                                     \
                                                                                                             \
		kind ? reads_count(reads_number(file), kind, what, amount, READS_ROOM(group, copy)) : 0;     \
	})

/* -- opens */

#define READS_OPENED(group, typed, file)                                                                     \
	(reads_is_open(file, typed) ? READS_COUNT(group, typed, file, reads_open, 0) : 0)
#define READS_OPENED_ALONE(group, file)                                                                      \
	(reads_is_open(file, false) ? READS_COUNT_ALONE(group, file, reads_open, 0) : 0)

KT_BACKED_UP(open, fentry, "fexit/do_filp_open", READS_OPENED(open, true, file), int descriptor, void *name,
	     void *how, struct file *file)
KT_BACKED_UP(open, fentry_file, "fexit/do_file_open", READS_OPENED(open, true, file), int descriptor,
	     void *name, void *how, struct file *file)
KT_KRETPROBE(open__kprobe, "do_filp_open", kt_only, READS_OPENED_ALONE(open, file), struct file *file)
KT_KRETPROBE(open__kprobe_file, "do_file_open", kt_only, READS_OPENED_ALONE(open, file), struct file *file)

/* -- reads */

/* A kretprobe has the result alone: the files that threads are reading. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64); /* pid_tgid | group << 56 */
	__type(value, __u64);
} starts SEC(".maps");

static __always_inline int reads_begin(__u32 group, const struct file *file)
{
	__u64 thread = bpf_get_current_pid_tgid() | (__u64)group << 56;
	__u64 address = (__u64)file;

	if (!reads_kind_of(file, false))
		return 0;
	if (bpf_map_update_elem(&starts, &thread, &address, BPF_ANY))
		kt_lost(kt_loss_map_full);
	return 0;
}

static __always_inline struct file *reads_begun(__u32 group)
{
	__u64 thread = bpf_get_current_pid_tgid() | (__u64)group << 56;
	__u64 *begun = bpf_map_lookup_elem(&starts, &thread);
	__u64 address;

	if (!begun)
		return 0;
	address = *begun;
	bpf_map_delete_elem(&starts, &thread);
	return (struct file *)address;
}

#define READS_ENDED(group, result)                                                                           \
	({                                                                                                   \
		struct file *file = reads_begun(kt_group_##group);                                           \
                                                                                                             \
		file && (result) > 0 ? READS_COUNT_ALONE(group, file, reads_read, result) : 0;               \
	})
#define READS_BEGIN(group, function, file, ...)                                                              \
	KT_FENTRY(group##_begin, function, reads_begin(kt_group_##group, file), ##__VA_ARGS__)               \
	KT_KPROBE(group##_begin__kprobe, function, kt_only, reads_begin(kt_group_##group, file),             \
		  ##__VA_ARGS__)

KT_BACKED_UP(read, fentry, "fexit/shmem_file_read_iter",
	     result > 0 ? READS_COUNT(read, true, request->ki_filp, reads_read, result) : 0,
	     struct kiocb *request, void *into, long result)
READS_BEGIN(read, "shmem_file_read_iter", BPF_CORE_READ(request, ki_filp), struct kiocb *request)
KT_KRETPROBE(read__kprobe, "shmem_file_read_iter", kt_only, READS_ENDED(read, result), long result)

KT_BACKED_UP(splice, fentry, "fexit/shmem_file_splice_read",
	     result > 0 ? READS_COUNT(splice, true, file, reads_read, result) : 0, struct file *file,
	     void *from, void *pipe, __u64 size, __u32 flags, long result)
READS_BEGIN(splice, "shmem_file_splice_read", file, struct file *file)
KT_KRETPROBE(splice__kprobe, "shmem_file_splice_read", kt_only, READS_ENDED(splice, result), long result)

/* -- mappings */

KT_BACKED_UP(map, fentry, "fentry/security_mmap_file",
	     file ? READS_COUNT(map, true, file, reads_mapped, 0) : 0, struct file *file)
KT_KPROBE(map__kprobe, "security_mmap_file", kt_only,
	  file ? READS_COUNT_ALONE(map, file, reads_mapped, 0) : 0, struct file *file)
