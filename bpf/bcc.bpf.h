/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What stands in for libbpf's headers when bcc compiles a tracer on the node (engines/bcc/translate.py puts
 * it first).
 *
 * bcc knows neither CO-RE nor libbpf's maps. The translation gives the kernel's structs the running kernel's
 * offsets, a member that this kernel lacks is `volatile`, and every map and program has a number or name that
 * engines/bcc/engine.py fills in when it loads. bcc's own helpers.h is kept out: its rewriter has nothing to
 * do here.
 */
#ifndef KT_BCC_BPF_H
#define KT_BCC_BPF_H

#include "kernel.bpf.h"

/* bcc appends a license of its own under this name. */
#define BCC_SEC(name) __attribute__((section(name), used))

#undef __always_inline
#define __always_inline	    inline __attribute__((always_inline))
#define __uint(name, value) int(*name)[value]
#define __type(name, of)    int(*name)[sizeof(of)]

/* ld_imm64 with a source: 1 a map, 2 the value of a map with one entry. */
static unsigned long long kt_pseudo(unsigned long long source,
				    unsigned long long number) __asm__("llvm.bpf.pseudo");
#define KT_MAP(name)	((void *)kt_pseudo(1, kt_map_number_##name))
#define KT_GLOBAL(name) (*(kt_type_##name *)kt_pseudo(2, kt_map_number_##name))

/* include/uapi/linux/bpf.h: the helpers that kubetrace's tracers and kubetrace run's have. */
#define KT_HELPER(result, name, number, ...) static result (*name)(__VA_ARGS__) = (void *)(number)
KT_HELPER(void *, bpf_map_lookup_elem, 1, void *, const void *);
KT_HELPER(long, bpf_map_update_elem, 2, void *, const void *, const void *, __u64);
KT_HELPER(long, bpf_map_delete_elem, 3, void *, const void *);
KT_HELPER(__u64, bpf_ktime_get_ns, 5, void);
KT_HELPER(__u32, bpf_get_smp_processor_id, 8, void);
KT_HELPER(__u64, bpf_get_current_pid_tgid, 14, void);
KT_HELPER(__u64, bpf_get_current_uid_gid, 15, void);
KT_HELPER(long, bpf_get_current_comm, 16, void *, __u32);
/* by this name bcc's rewriter would follow what it gives */
#define bpf_get_current_task kt_get_current_task
KT_HELPER(__u64, bpf_get_current_task, 35, void);
KT_HELPER(__u64, bpf_get_current_cgroup_id, 80, void);
KT_HELPER(long, bpf_probe_read_user, 112, void *, __u32, const void *);
KT_HELPER(long, bpf_probe_read_kernel, 113, void *, __u32, const void *);
KT_HELPER(long, bpf_probe_read_user_str, 114, void *, __u32, const void *);
KT_HELPER(long, bpf_probe_read_kernel_str, 115, void *, __u32, const void *);
KT_HELPER(__u64, bpf_ktime_get_boot_ns, 125, void);
struct task_struct;
KT_HELPER(struct task_struct *, bpf_get_current_task_btf, 158, void);
KT_HELPER(long, bpf_ringbuf_output, 130, void *, void *, __u64, __u64);
KT_HELPER(void *, bpf_ringbuf_reserve, 131, void *, __u64, __u64);
KT_HELPER(void, bpf_ringbuf_submit, 132, void *, __u64);
KT_HELPER(void, bpf_ringbuf_discard, 133, void *, __u64);
KT_HELPER(__u64, bpf_ringbuf_query, 134, void *, __u64);

/* The registers of a call, by their place in struct pt_regs (arch/x86/include/asm/ptrace.h, user_pt_regs). */
#if defined(__TARGET_ARCH_x86)
#define KT_REGISTER(ctx, index) (((const unsigned long *)(ctx))[index])
#define PT_REGS_PARM1(ctx)	KT_REGISTER(ctx, 14)
#define PT_REGS_PARM2(ctx)	KT_REGISTER(ctx, 13)
#define PT_REGS_PARM3(ctx)	KT_REGISTER(ctx, 12)
#define PT_REGS_PARM4(ctx)	KT_REGISTER(ctx, 11)
#define PT_REGS_PARM5(ctx)	KT_REGISTER(ctx, 9)
#define PT_REGS_RC(ctx)		KT_REGISTER(ctx, 10)
#else
#define KT_REGISTER(ctx, index) (((const unsigned long *)(ctx))[index])
#define PT_REGS_PARM1(ctx)	KT_REGISTER(ctx, 0)
#define PT_REGS_PARM2(ctx)	KT_REGISTER(ctx, 1)
#define PT_REGS_PARM3(ctx)	KT_REGISTER(ctx, 2)
#define PT_REGS_PARM4(ctx)	KT_REGISTER(ctx, 3)
#define PT_REGS_PARM5(ctx)	KT_REGISTER(ctx, 4)
#define PT_REGS_RC(ctx)		KT_REGISTER(ctx, 0)
#endif

/*
 * libbpf's BPF_CORE_READ: offsets are the kernel's already. Reading a member that this kernel lacks calls a
 * helper that no kernel has: who gets there does not pass the verifier, as with libbpf.
 */
KT_HELPER(void, kt_no_such_member, 27508, void);
#define KT_READ(from, member)                                                                                \
	({                                                                                                   \
		__auto_type kt_from = (from);                                                                \
		typeof(kt_from->member) kt_value;                                                            \
		if (!bpf_core_field_exists(kt_from->member))                                                 \
			kt_no_such_member();                                                                 \
		bpf_probe_read_kernel((void *)&kt_value, sizeof(kt_value), (const void *)&kt_from->member);  \
		kt_value;                                                                                    \
	})
#define KT_READ_1(p, a)			       KT_READ(p, a)
#define KT_READ_2(p, a, b)		       KT_READ(KT_READ_1(p, a), b)
#define KT_READ_3(p, a, b, c)		       KT_READ(KT_READ_2(p, a, b), c)
#define KT_READ_4(p, a, b, c, d)	       KT_READ(KT_READ_3(p, a, b, c), d)
#define KT_READ_5(p, a, b, c, d, e)	       KT_READ(KT_READ_4(p, a, b, c, d), e)
#define KT_READ_6(p, a, b, c, d, e, f)	       KT_READ(KT_READ_5(p, a, b, c, d, e), f)
#define KT_READ_N(a, b, c, d, e, f, name, ...) name
#define BPF_CORE_READ(from, ...)                                                                             \
	KT_READ_N(__VA_ARGS__, KT_READ_6, KT_READ_5, KT_READ_4, KT_READ_3, KT_READ_2, KT_READ_1, 0)          \
	(from, __VA_ARGS__)
#define BPF_CORE_READ_INTO(to, from, ...) (*(to) = BPF_CORE_READ(from, __VA_ARGS__), 0)

/* What CO-RE asks of the kernel's types. A pointer to volatile void is what one to a volatile member turns
 * into. */
#define bpf_core_field_exists(member)                                                                        \
	_Generic(1 ? &(member) : (void *)1, volatile void * : 0, const volatile void * : 0, default : 1)
#define bpf_core_field_size(member)	       sizeof(member)
#define bpf_core_field_offset(type, member)    __builtin_offsetof(type, member)
#define bpf_core_type_size(type)	       sizeof(type)
#define bpf_core_type_exists(type)	       (sizeof(((type *)0)->kt_known) == 1)
#define bpf_core_enum_value(type, name)	       (name)
#define bpf_core_enum_value_exists(type, name) kt_known_##name

#endif
