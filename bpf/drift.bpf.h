/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What changed between kernels, one block each. CO-RE takes the branch that the running kernel's BTF has;
 * none of these asks for a version.
 */
#ifndef KT_DRIFT_BPF_H
#define KT_DRIFT_BPF_H

#include "kernel.bpf.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

/*
 * inode.i_ino was unsigned long, and is u64 since 7.1. Both are eight bytes on the 64-bit machines kubetrace
 * runs on; the flavoured struct lets CO-RE match either type.
 */
struct inode___u64 {
	__u64 i_ino;
} __attribute__((preserve_access_index));

static __always_inline __u64 kt_inode_number(const struct inode *inode)
{
	if (bpf_core_field_size(inode->i_ino) == sizeof(__u64))
		return BPF_CORE_READ((const struct inode___u64 *)inode, i_ino);
	return BPF_CORE_READ(inode, i_ino);
}

#endif
