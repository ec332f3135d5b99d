/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Counters: monotone numbers by key, in an array that user space reads where it is. */
#ifndef KT_COUNTERS_BPF_H
#define KT_COUNTERS_BPF_H

#include "units.bpf.h"

/*
 * Counters are monotone numbers by key. A key has a slot of the array NAME and keeps it: a program that
 * remembers the slot counts without looking the key up, and user space reads the array where it is (mmap).
 * What is new or has changed is handed on as `record`s: the time of reading, the key, the values.
 *
 * NAME_find gives a key's slot, NAME_make a new one; 0: none. Who made one sets the record's time to 1 when
 * the rest of it is to be seen. The first slot is nobody's: its time is the number of slots that are given
 * out.
 */
#define KT_COUNTERS(name, key_type, record_type, entries)                                                    \
	struct name##_slot {                                                                                 \
		struct record_type record; /* at the very start: clang adds before it asks for 0 */          \
		__u64 header;		   /* 0: a ring has its own in front of the next record */           \
	};                                                                                                   \
	struct {                                                                                             \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                            \
		__uint(max_entries, entries);                                                                \
		__uint(map_flags, 1024); /* BPF_F_MMAPABLE, 5.5 */                                           \
		__type(key, __u32);                                                                          \
		__type(value, struct name##_slot);                                                           \
	} name SEC(".maps");                                                                                 \
	struct {                                                                                             \
		__uint(type, BPF_MAP_TYPE_HASH);                                                             \
		__uint(max_entries, entries);                                                                \
		__type(key, struct key_type);                                                                \
		__type(value, __u32);                                                                        \
	} name##_keys SEC(".maps");                                                                          \
	struct {                                                                                             \
		__uint(type, BPF_MAP_TYPE_HASH);                                                             \
		__uint(max_entries, 2 * KT_CLAIMS);                                                          \
		__type(key, __u32);                                                                          \
		__type(value, __u8);                                                                         \
	} name##_claims SEC(".maps");                                                                        \
	struct record_type *kt_pin_##name __attribute__((unused));                                           \
	static __always_inline struct record_type *name##_at(__u32 number)                                   \
	{                                                                                                    \
		struct name##_slot *slot = bpf_map_lookup_elem(&name, &number);                              \
                                                                                                             \
		return slot ? &slot->record : 0;                                                             \
	}                                                                                                    \
	static __always_inline __u32 name##_find(const struct key_type *key)                                 \
	{                                                                                                    \
		__u32 *number = bpf_map_lookup_elem(&name##_keys, key);                                      \
                                                                                                             \
		return number ? *number : 0;                                                                 \
	}                                                                                                    \
	static __always_inline __u32 name##_make(const struct key_type *key)                                 \
	{                                                                                                    \
		struct record_type *given = name##_at(0), *made = 0;                                         \
		__u32 number = 0, old;                                                                       \
		__u64 taken, again, attempts = KT_ATTEMPTS;                                                  \
		__u8 one = 1;                                                                                \
                                                                                                             \
		if (!given)                                                                                  \
			return 0;                                                                            \
		/* without a branch, and with one way back: 6.1 refuses what clang makes of two */           \
		do {                                                                                         \
			__u64 ahead = given->time - number, sign = ahead >> 63;                              \
                                                                                                             \
			asm volatile("" : "+r"(sign));                                                       \
			number += (ahead & (sign - 1)) + 1;                                                  \
			made = name##_at(number);                                                            \
			if (!made)                                                                           \
				return 0;                                                                    \
			/* refused; or it was given before, and its claim is gone */                         \
			taken =                                                                              \
			    (__u64)bpf_map_update_elem(&name##_claims, &number, &one, BPF_NOEXIST) >> 63;    \
			taken |= ((__u64)number - 1 - given->time) >> 63;                                    \
			attempts--;                                                                          \
			again = taken * attempts;                                                            \
			asm volatile("" : "+r"(again));                                                      \
		} while (again);                                                                             \
		if (taken)                                                                                   \
			return 0;                                                                            \
		old = number - KT_CLAIMS;                                                                    \
		bpf_map_delete_elem(&name##_claims, &old);                                                   \
		__builtin_memcpy((void *)made + sizeof(kt_boot_ns), key, sizeof(*key));                      \
		if (bpf_map_update_elem(&name##_keys, key, &number, BPF_NOEXIST))                            \
			number = name##_find(key);                                                           \
		__sync_fetch_and_add(&given->time, 1);                                                       \
		return number;                                                                               \
	}                                                                                                    \
	_Static_assert(sizeof(struct record_type) % 8 == 0, "a slot is a record without gaps")

/*
 * Programs give out slots without an atomic that tells what it found (5.12 has them first): who puts the next
 * number into NAME_claims first has it. All numbers up to the highest claimed one are claimed, and those that
 * lie KT_CLAIMS behind are counted as given: their claims are not needed any more.
 */
#define KT_CLAIMS   1024 /* more than programs can be making slots at one time */
#define KT_ATTEMPTS 64

#endif
