/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What `writes` counts and by what: its options, the key, the values, and the records that go with them. */
#ifndef KT_WRITES_KEY_BPF_H
#define KT_WRITES_KEY_BPF_H

#include "counters.bpf.h"
#include "stream.bpf.h"
#include "units.bpf.h"

/* Set before load; what is false is compiled away by the verifier. */
const volatile bool all_files = false;	/* sockets, pipes and character devices too */
const volatile bool by_file = false;	/* place is the file itself */
const volatile bool by_process = false; /* pid is part of the key */
const volatile bool latency = false;
const volatile bool events = false; /* an event for each operation */
const volatile __u32 page_bytes = 4096;

enum writes_operation {
	writes_write,
	writes_writev,
	writes_aio,
	writes_io_uring,
	writes_sendfile,
	writes_splice,
	writes_copy_file_range,
	writes_fallocate,
	writes_truncate,
	writes_fsync,
	writes_mmap,
	writes_other, /* what found no room in the table: of any kind but the two that are not added to the
			 others */
	writes_other_fsync,
	writes_other_mmap,
	/* what the kernel did not do, and programs do by other means; its operation does not matter */
	writes_refused_exdev,	    /* copy_file_range between two file systems */
	writes_refused_unsupported, /* EOPNOTSUPP, ENOSYS; EINVAL where nothing is copied so */
	writes_refused_interrupted, /* EINTR */
	writes_other_refused,
};

/* clang-format off */
#define WRITES_KEY                                                                                           \
	kt_cgroup_id cgroup_id;                                                                              \
	kt_cgroup_id memory_cgroup_id;                                                                       \
	kt_mount mount;                                                                                      \
	kt_place place;                                                                                      \
	kt_hierarchy memory_hierarchy;                                                                       \
	kt_dev device;                                                                                       \
	__u32 pid;                                                                                           \
	enum writes_operation operation
#define WRITES_VALUE                                                                                         \
	kt_count count;         /* operations that succeeded; pages of mmap */                               \
	kt_bytes bytes;         /* as returned, not as asked for */                                          \
	kt_count errors;                                                                                     \
	kt_count files;         /* distinct ones, each under the first of its operations */                  \
	__u64 last_file;                                                                                     \
	char comm[16]           /* of the first */
#define WRITES_SLOTS 32
#define WRITES_LATENCY                                                                                       \
	kt_duration_ns longest;                                                                              \
	kt_count slots[WRITES_SLOTS] /* of log2(ns), from 256 ns on */
/* clang-format on */

struct writes_key {
	WRITES_KEY;
};
struct writes_counter {
	kt_boot_ns time;
	WRITES_KEY;
	WRITES_VALUE;
};
struct writes_latency {
	kt_boot_ns time;
	WRITES_KEY;
	WRITES_LATENCY;
};
KT_COUNTERS(writes, writes_key, writes_counter, 16384);
/* Where writes has no room: an entry for each cgroup and kind of sum, so that sums stay exact. */
KT_COUNTERS(writes_rest, writes_key, writes_counter, 4096);
/* By the keys of both. */
KT_COUNTERS(latencies, writes_key, writes_latency, 16384 + 4096);

/* One operation, with events. */
struct writes_event {
	kt_boot_ns time;
	WRITES_KEY;
	kt_bytes bytes;
	kt_duration_ns duration;
	kt_inode inode;
	kt_errno error;
	__u32 tid;
	__u16 path_bytes;
	__u16 path_end;
	__u32 reserved;
	char comm[16];
	char path[1024 - 8 - 112];
};
KT_STREAM(writes_events, writes_event, 4 * 1024 * 1024);

#endif
