/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What `files` counts and by what: its options, the key, the values. */
#ifndef KT_FILES_KEY_BPF_H
#define KT_FILES_KEY_BPF_H

#include "counters.bpf.h"
#include "stream.bpf.h"
#include "units.bpf.h"

/* Set before load; what is false is compiled away by the verifier. */
const volatile bool by_directory = false; /* place is the directory itself */
const volatile bool by_process = false;	  /* pid is part of the key */

enum files_operation {
	files_open,	      /* of what was there; O_PATH too */
	files_create,	      /* by open, and mknod of a regular file */
	files_tmpfile,	      /* O_TMPFILE */
	files_open_missing,   /* ENOENT */
	files_lookup_missing, /* ENOENT of stat, access, readlink, chdir, ... */
	files_stat,	      /* fstat too */
	files_list,	      /* calls of getdents: two at least for a directory */
	files_unlink,
	files_rmdir,
	files_mkdir,
	files_mknod, /* pipes, sockets, devices */
	files_symlink,
	files_link,
	files_rename,
	files_whiteout, /* what overlayfs puts where a file of a layer was removed; beside the removal */
};

/* clang-format off */
#define FILES_KEY                                                                                            \
	kt_cgroup_id cgroup_id;                                                                              \
	kt_cgroup_id memory_cgroup_id;                                                                       \
	kt_mount mount;                                                                                      \
	kt_place place;                                                                                      \
	kt_hierarchy memory_hierarchy;                                                                       \
	kt_dev device;                                                                                       \
	__u32 pid;                                                                                           \
	enum files_operation operation;                                                                      \
	kt_errno error;         /* of those that failed */                                                   \
	__u32 rest              /* 1: found no room under its own key, and is added up by its cgroup */
#define FILES_VALUE                                                                                          \
	kt_count count;         /* operations that succeeded */                                              \
	kt_count errors;                                                                                     \
	kt_count expected;      /* failures that programs go by: EEXIST, ENOTEMPTY, EISDIR of unlink, ... */ \
	kt_bytes bytes;                                                                                      \
	char comm[16]           /* of the first */
/* clang-format on */

struct files_key {
	FILES_KEY;
};
struct files_counter {
	kt_boot_ns time;
	FILES_KEY;
	FILES_VALUE;
};
KT_COUNTERS(files, files_key, files_counter, 16384);
/* Where files has no room: an entry for each cgroup and operation, so that sums stay exact. */
KT_COUNTERS(files_rest, files_key, files_counter, 16384);

#endif
