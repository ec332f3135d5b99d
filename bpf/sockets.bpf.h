/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* TCP sockets: the addresses and ports of their ends, what went through, and in whose cgroup they were made.
 */
#ifndef KT_SOCKETS_BPF_H
#define KT_SOCKETS_BPF_H

#include "units.bpf.h"

/* include/net/tcp_states.h, include/linux/socket.h */
enum {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT = 2,
	TCP_SYN_RECV = 3,
	TCP_CLOSE = 7,
	TCP_CLOSE_WAIT = 8,
};
#define AF_INET	 2
#define AF_INET6 10

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* include/net/sock.h, include/linux/tcp.h, include/linux/cgroup-defs.h */
struct in6_addr {
	__u8 bytes[16];
};
struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};
struct sock_cgroup_data {
	struct cgroup *cgroup;
};
struct sock {
	struct sock_common __sk_common;
	int sk_err;
	struct sock_cgroup_data sk_cgrp_data;
};
struct tcp_sock {
	__u64 bytes_received;
	__u64 bytes_sent; /* since 4.19 (ba113c3aa79a), as the next */
	__u64 bytes_retrans;
};
/* up to 5.15 (8520e224f547): a pointer, or a class of v1's net_cls where the lowest bit is set */
struct sock_cgroup_data___shared {
	__u64 val;
};

#pragma clang attribute pop

struct kt_address {
	__u8 bytes[16]; /* IPv6; an IPv4 address as ::ffff:a.b.c.d */
};

static __always_inline void kt_address_of(struct kt_address *address, const struct sock *sock, __be32 four,
					  const struct in6_addr *six)
{
	__u16 family = BPF_CORE_READ(sock, __sk_common.skc_family);

	__builtin_memset(address, 0, sizeof(*address));
	if (family == AF_INET6) {
		bpf_probe_read_kernel(address, sizeof(*address), six);
	} else {
		address->bytes[10] = address->bytes[11] = 0xff;
		__builtin_memcpy(address->bytes + 12, &four, 4);
	}
}

static __always_inline const struct sock_common *kt_socket_common(const struct sock *sock)
{
	return (const void *)sock + bpf_core_field_offset(sock->__sk_common);
}

static __always_inline void kt_remote_address(struct kt_address *address, const struct sock *sock)
{
	const struct sock_common *common = kt_socket_common(sock);

	kt_address_of(address, sock, BPF_CORE_READ(common, skc_daddr),
		      (const void *)common + bpf_core_field_offset(common->skc_v6_daddr));
}

static __always_inline __u16 kt_remote_port(const struct sock *sock)
{
	return __builtin_bswap16(BPF_CORE_READ(sock, __sk_common.skc_dport));
}

/* One end of a connection as the other one knows it. */
struct kt_peer {
	struct kt_address address; /* of the client */
	__u16 client_port;
	__u16 server_port;
	__u32 zero;
};

/* Of the socket that has answered. */
static __always_inline void kt_peer_of(struct kt_peer *peer, const struct sock *sock)
{
	kt_remote_address(&peer->address, sock);
	peer->client_port = kt_remote_port(sock);
	peer->server_port = BPF_CORE_READ(sock, __sk_common.skc_num);
	peer->zero = 0;
}

/* The same, from the client's socket. */
static __always_inline void kt_peer_of_other(struct kt_peer *peer, const struct sock *sock)
{
	const struct sock_common *common = kt_socket_common(sock);

	kt_address_of(&peer->address, sock, BPF_CORE_READ(common, skc_rcv_saddr),
		      (const void *)common + bpf_core_field_offset(common->skc_v6_rcv_saddr));
	peer->client_port = BPF_CORE_READ(sock, __sk_common.skc_num);
	peer->server_port = kt_remote_port(sock);
	peer->zero = 0;
}

/* The v2 cgroup in which the socket, or the one that listened, was made; 0 where that is not known. */
static __always_inline kt_cgroup_id kt_socket_cgroup(const struct sock *sock)
{
	struct cgroup *cgroup;
	__u64 value;

	if (bpf_core_field_exists(sock->sk_cgrp_data.cgroup)) {
		cgroup = BPF_CORE_READ(sock, sk_cgrp_data.cgroup);
	} else {
		bpf_probe_read_kernel(&value, sizeof(value),
				      (const void *)sock + bpf_core_field_offset(sock->sk_cgrp_data));
		if (value & 1)
			return 0;
		cgroup = (struct cgroup *)value;
	}
	return BPF_CORE_READ(cgroup, kn, id);
}

static __always_inline void kt_socket_bytes(const struct sock *sock, kt_bytes *sent, kt_bytes *received)
{
	const struct tcp_sock *tcp = (const struct tcp_sock *)sock;

	*sent = BPF_CORE_READ(tcp, bytes_sent) - BPF_CORE_READ(tcp, bytes_retrans);
	*received = BPF_CORE_READ(tcp, bytes_received);
}

#endif
