/* The limit: libbpf's own ring buffer consumer in C, which only copies each record out. */
#include <bpf/libbpf.h>
#include <stdlib.h>
#include <string.h>

static char *sink;
static size_t at, room;

static int copy(void *context, void *data, size_t size)
{
	if (at + size > room)
		at = 0;
	memcpy(sink + at, data, size);
	at += size;
	return 0;
}

struct ring_buffer *consumer_new(int fd, size_t bytes)
{
	room = bytes;
	sink = malloc(bytes);
	memset(sink, 1, bytes); /* 0 would become a calloc, whose pages come one by one */
	return ring_buffer__new(fd, copy, NULL, NULL);
}

int consumer_drain(struct ring_buffer *ring)
{
	return ring_buffer__consume(ring);
}
