/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Streams: rings of records of one size; what is lost on the way is counted. */
#ifndef KT_STREAM_BPF_H
#define KT_STREAM_BPF_H

#include "units.bpf.h"

/*
 * A stream is a ring buffer whose records are all of one size; size + 8 (the ring's own header) is a power of
 * two, so that no record straddles the ring's end and user space decodes a whole drain in one call.
 */
#define KT_STREAM(name, event, bytes)                                                                        \
	struct {                                                                                             \
		__uint(type, BPF_MAP_TYPE_RINGBUF);                                                          \
		__uint(max_entries, bytes);                                                                  \
	} name SEC(".maps");                                                                                 \
	struct event *kt_pin_##name __attribute__((unused));                                                 \
	_Static_assert(((sizeof(struct event) + 8) & (sizeof(struct event) + 7)) == 0,                       \
		       "a record and its ring header fill a power of two")

/* Losses: counted where they happen, never deduced. User space names them by this enum (read from BTF). */
enum kt_loss {
	kt_loss_ring_full,     /* a record did not fit into its ring */
	kt_loss_map_full,      /* a start could not be remembered: its end will not be seen */
	kt_loss_missed_return, /* a start whose end never came (the kernel missed the return probe) */
	kt_loss_kinds,
};
/* User space finds the names through this pointer's type. */
enum kt_loss *kt_pin_loss __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, kt_loss_kinds);
	__type(key, __u32);
	__type(value, __u64);
} losses SEC(".maps");

static __always_inline void kt_lost(__u32 kind)
{
	__u64 *count = bpf_map_lookup_elem(&losses, &kind);

	if (count)
		*count += 1;
}

/* User space sleeps until something comes (1): the next record takes this back, and wakes it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} asleep SEC(".maps");

/*
 * Hand a record over without waking the reader for each: a timer drains. It is woken where it has said that
 * it sleeps, and once per crossing of half the ring, so that a burst does not have to wait for the timer.
 */
static __always_inline __u64 kt_wake(void *ring, __u64 size)
{
	__u32 zero = 0;
	__u32 *sleeps = bpf_map_lookup_elem(&asleep, &zero);
	__u64 half, filled;

	if (sleeps && *sleeps) {
		*sleeps = 0;
		return BPF_RB_FORCE_WAKEUP;
	}
	half = bpf_ringbuf_query(ring, BPF_RB_RING_SIZE) / 2;
	filled = bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA);
	return filled >= half && filled < half + 8 * (size + 8) ? BPF_RB_FORCE_WAKEUP : BPF_RB_NO_WAKEUP;
}

static __always_inline void kt_output(void *ring, void *record, __u64 size)
{
	if (bpf_ringbuf_output(ring, record, size, kt_wake(ring, size)))
		kt_lost(kt_loss_ring_full);
}

#endif
