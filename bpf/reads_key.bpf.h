/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What `reads` counts and by what: its options, the key, the values. */
#ifndef KT_READS_KEY_BPF_H
#define KT_READS_KEY_BPF_H

#include "counters.bpf.h"
#include "stream.bpf.h"
#include "units.bpf.h"

/* Kinds of volumes, by the plugin's directory. */
enum reads_kind {
	reads_none,
	reads_secret,
	reads_token,	 /* projected, named kube-api-access-... by the API server */
	reads_projected, /* any other: secrets may be in it */
	reads_configmap,
	reads_downward,
	reads_driver, /* of a CSI driver in memory, such as a secret store's */
	reads_volume, /* any other volume of the kubelet's */
};

/* Set before load; what is false is compiled away by the verifier. */
const volatile __u32 kinds = 0;		       /* a bit for each enum reads_kind that is asked for */
const volatile __u64 wanted_volume = 0;	       /* reads_hash of a volume's name; 0: any */
const volatile bool on_disk = false;	       /* whether some of these are not on tmpfs */
const volatile bool by_process = false;	       /* pid is part of the key */
const volatile __u32 node_mount_namespace = 0; /* inode number of PID 1's mount namespace */

enum reads_what {
	reads_open,
	reads_read,
	reads_mapped,
};

/* Whose mount the file was opened through, and whether the reader is in that namespace. */
enum reads_through {
	reads_own,		   /* the reader's own, which is not the node's */
	reads_executed,		   /* the same, and the reader was put into its PID namespace from outside */
	reads_node,		   /* the node's, by a process that is there */
	reads_node_from_elsewhere, /* the node's, by one that is not: /proc/1/root, or a descriptor that was
				      passed */
	reads_from_elsewhere,	   /* another one's: /proc/PID/root */
	reads_unmounted,	   /* it is mounted nowhere any more */
	reads_unknown,		   /* which namespace is the node's was not told */
};

/* clang-format off */
#define READS_KEY                                                                                            \
	kt_cgroup_id cgroup_id;                                                                              \
	kt_cgroup_id memory_cgroup_id;                                                                       \
	kt_place file;                                                                                       \
	kt_hierarchy memory_hierarchy;                                                                       \
	kt_dev device;          /* 0: what is attributed by an overlay is not here */                        \
	kt_dev volume;          /* the file system that the file is in */                                    \
	__u32 pid;                                                                                           \
	enum reads_through through;                                                                          \
	__u32 rest;             /* 1: found no room under its own key, and is added up by its cgroup */      \
	char comm[16]
#define READS_VALUE                                                                                          \
	kt_count opens;                                                                                      \
	kt_count reads;         /* calls that gave something */                                              \
	kt_count maps;                                                                                       \
	kt_bytes bytes;                                                                                      \
	kt_boot_ns first;                                                                                    \
	kt_boot_ns last;                                                                                     \
	__u32 last_pid;                                                                                      \
	__u32 reserved
/* clang-format on */

struct reads_key {
	READS_KEY;
};
struct reads_counter {
	kt_boot_ns time;
	READS_KEY;
	READS_VALUE;
};
KT_COUNTERS(reads, reads_key, reads_counter, 16384);
/* Where reads has no room: an entry for each cgroup, so that sums stay exact. */
KT_COUNTERS(reads_rest, reads_key, reads_counter, 4096);

#endif
