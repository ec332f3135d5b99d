/*
 * Reads a file by each way of doing it, so and so often (all prime numbers); statically linked, so that it opens nothing
 * of its own.
 *
 *     reader WHO PID PROCS[,PROCS] FILE
 *
 * WHO is what it does first: g, it enters the cgroups whose cgroup.procs are given; m, the mount namespace of PID; -,
 * nothing. What test_reads.py expects are the numbers here.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static void need(int done, const char *what)
{
	if (!done) {
		dprintf(2, "%s: %s\n", what, strerror(errno));
		_exit(2);
	}
}

static int opened(const char *path, int flags)
{
	int fd = open(path, flags);

	need(fd >= 0, "open");
	return fd;
}

/* So many bytes in so many requests, one at a time. */
static void by_ring(int fd, int times, int size)
{
	struct io_uring_params params = {};
	int ring = syscall(SYS_io_uring_setup, 4, &params);
	struct io_uring_sqe *entries;
	char *submission, *completion, into[64];

	need(ring >= 0, "io_uring_setup");
	submission = mmap(0, params.sq_off.array + params.sq_entries * 4, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
	completion = mmap(0, params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe),
			  PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_CQ_RING);
	entries = mmap(0, params.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQES);
	need(submission != MAP_FAILED && completion != MAP_FAILED && entries != MAP_FAILED, "mmap of a ring");
	while (times--) {
		unsigned *tail = (void *)(submission + params.sq_off.tail), mask = params.sq_entries - 1;
		unsigned *head = (void *)(completion + params.cq_off.head);
		unsigned *end = (void *)(completion + params.cq_off.tail), slot = *tail & mask;
		struct io_uring_cqe *results = (void *)(completion + params.cq_off.cqes);

		entries[slot] = (struct io_uring_sqe){
		    .opcode = IORING_OP_READ, .fd = fd, .addr = (unsigned long)into, .len = size};
		((unsigned *)(submission + params.sq_off.array))[slot] = slot;
		__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
		while (__atomic_load_n(end, __ATOMIC_ACQUIRE) == *head) {
			unsigned seen =
			    __atomic_load_n((unsigned *)(submission + params.sq_off.head), __ATOMIC_ACQUIRE);

			if (syscall(SYS_io_uring_enter, ring, *tail != seen, 1, IORING_ENTER_GETEVENTS, 0, 0) < 0)
				need(errno == EINTR, "io_uring_enter");
		}
		need(results[*head & (params.cq_entries - 1)].res == size, "a read by io_uring");
		__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	}
	close(ring);
}

int main(int argc, char **argv)
{
	struct iovec parts[2];
	char into[64], *procs, proc[64];
	int fd, pipes[2], sink;
	loff_t at;

	need(argc == 5, "usage");
	if (strchr(argv[1], 'g')) {
		for (procs = strtok(argv[3], ","); procs; procs = strtok(0, ",")) {
			fd = opened(procs, O_WRONLY);
			need(write(fd, "0", 1) == 1, procs);
			close(fd);
		}
	}
	if (strchr(argv[1], 'm')) {
		snprintf(proc, sizeof(proc), "/proc/%s/ns/mnt", argv[2]);
		fd = opened(proc, O_RDONLY);
		need(!setns(fd, CLONE_NEWNS), "setns");
		close(fd);
	}
	need(!pipe(pipes), "pipe");
	sink = opened("/dev/null", O_WRONLY);
	for (int time = 0; time < 23; time++)
		close(opened(argv[4], O_RDONLY));
	/* reads nothing, and is no open of one who may */
	for (int time = 0; time < 2; time++)
		close(opened(argv[4], O_PATH));

	fd = opened(argv[4], O_RDONLY);
	for (int time = 0; time < 11; time++)
		need(read(fd, into, 1) == 1, "read");
	/* the end of the file gives nothing */
	need(lseek(fd, 0, SEEK_END) == 17 && !read(fd, into, 1), "read at the end");
	for (int time = 0; time < 3; time++)
		need(pread(fd, into, 3, time) == 3, "pread");
	for (int time = 0; time < 5; time++) {
		parts[0] = (struct iovec){into, 1};
		parts[1] = (struct iovec){into + 8, 1};
		need(preadv(fd, parts, 2, 0) == 2, "preadv");
	}
	for (int time = 0; time < 7; time++) {
		at = 0;
		need(splice(fd, &at, pipes[1], 0, 7, 0) == 7, "splice");
		need(read(pipes[0], into, 7) == 7, "read of a pipe");
	}
	for (int time = 0; time < 13; time++) {
		at = 0;
		need(sendfile(sink, fd, &at, 5) == 5, "sendfile");
	}
	by_ring(fd, 17, 2);
	for (int time = 0; time < 19; time++)
		need(mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0) != MAP_FAILED, "mmap");
	return 0;
}
