/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The units of fields, as names of types.
 *
 * The C struct of an event is its schema: user space reads names, offsets and units from this object's BTF
 * (src/kubetrace/stream/layout.py) and holds no offset of its own. A typedef's name is the unit of the field.
 */
#ifndef KT_UNITS_BPF_H
#define KT_UNITS_BPF_H

#include "kernel.bpf.h"
#include "drift.bpf.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

typedef __u64 kt_boot_ns;     /* nanoseconds since boot, suspend included (CLOCK_BOOTTIME) */
typedef __u64 kt_duration_ns; /* nanoseconds */
typedef __u64 kt_bytes;	      /* bytes */
typedef __u64 kt_cgroup_id;   /* 64-bit kernfs id = st_ino of the cgroup's directory */
typedef __u32 kt_hierarchy;   /* 0 is cgroup v2, others as in the first column of /proc/self/cgroup */
typedef __u32 kt_dev;	      /* kernel dev_t: major << 20 | minor */
typedef __u64 kt_inode;	      /* inode number */
typedef __s32 kt_errno;	      /* 0 or a negative errno */
typedef __u32 kt_open_flags;  /* O_* as in open(2) */
typedef __u16 kt_mode;	      /* st_mode */
typedef __u64 kt_mount;	      /* number of a mount (kt_mount_number) */
typedef __u64 kt_place;	      /* number of a directory or file that is told apart (place.bpf.h) */
typedef __u64 kt_count;	      /* of things: added up in a table */

#endif
