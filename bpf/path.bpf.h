/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The path of a file, from its dentry. */
#ifndef KT_PATH_BPF_H
#define KT_PATH_BPF_H

#include "units.bpf.h"

/*
 * The path from a dentry up to its superblock's root, leaf first, names separated by NUL. For a file of a
 * container's root this is the path inside the container: the overlay's own root ends the walk, and volumes
 * are other superblocks.
 */
#define KT_PATH_BYTES	   4096 /* PATH_MAX: where the walk stops */
#define KT_NAME_BYTES	   256	/* NAME_MAX and its NUL: what the last name may reach past that */
#define KT_PATH_COMPONENTS 128

enum kt_path_end {
	kt_path_whole,	 /* the root was reached */
	kt_path_cut,	 /* too deep or too long: the components nearest to the root are missing */
	kt_path_unnamed, /* a name could not be read */
};

struct kt_path_walk {
	__u16 bytes;
	__u16 end;
};

/* buffer: KT_PATH_BYTES + KT_NAME_BYTES at least */
static __always_inline struct kt_path_walk kt_path(char *buffer, struct dentry *dentry)
{
	struct kt_path_walk walk = {.bytes = 0, .end = kt_path_cut};
	__u64 used = 0;

	for (int depth = 0; depth < KT_PATH_COMPONENTS; depth++) {
		struct dentry *parent = BPF_CORE_READ(dentry, d_parent);
		const unsigned char *name = BPF_CORE_READ(dentry, d_name.name);
		__u64 at = used;
		long read;

		if (parent == dentry) {
			walk.end = kt_path_whole;
			break;
		}
		if (at >= KT_PATH_BYTES)
			break;
		/* clang drops the mask as redundant, and the verifier then loses the bound (docs/kernel.md)
		 */
		asm volatile("" : "+r"(at));
		at &= KT_PATH_BYTES - 1;
		read = bpf_probe_read_kernel_str(buffer + at, KT_NAME_BYTES, name);
		if (read <= 0) {
			walk.end = kt_path_unnamed;
			break;
		}
		used += read;
		dentry = parent;
	}
	walk.bytes = used;
	return walk;
}

#endif
