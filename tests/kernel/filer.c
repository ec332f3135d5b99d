/*
 * Does each operation on files and names, so and so often (all prime numbers), in each given directory from inside a
 * container; statically linked, so that it opens nothing of its own.
 *
 *     filer PID PROCS[,PROCS] DIRECTORY...
 *
 * It enters the container's cgroups and mount namespace. What test_files.py expects are the numbers here. In a directory
 * that ends in /= each name is removed, as those of an image's layer. Prints what could not be done.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static char base[512], path[16384], other[1024];

static void say(const char *what, int number)
{
	char line[256];
	int size = snprintf(line, sizeof(line), "%s: %d: %s\n", what, number, strerror(errno));

	if (write(2, line, size) != size)
		_exit(3);
}

static void need(int done, const char *what, int number)
{
	if (!done) {
		say(what, number);
		_exit(2);
	}
}

/* base/NAMEnumber */
static char *at(char *room, const char *name, int number)
{
	snprintf(room, 1024, "%s/%s%d", base, name, number);
	return room;
}

static void closed(int fd, const char *what, int number)
{
	need(fd >= 0, what, number);
	close(fd);
}

/* -- io_uring, one request at a time -- */

static int ring;
static struct io_uring_sqe *entries;
static char *submission, *completion;
static struct io_uring_params params;

static void make_ring(void)
{
	ring = syscall(SYS_io_uring_setup, 4, &params);
	need(ring >= 0, "io_uring_setup", 0);
	submission = mmap(0, params.sq_off.array + params.sq_entries * 4, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQ_RING);
	completion = mmap(0, params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe),
			  PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_CQ_RING);
	entries = mmap(0, params.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_POPULATE, ring, IORING_OFF_SQES);
	need(submission != MAP_FAILED && completion != MAP_FAILED && entries != MAP_FAILED, "mmap", 0);
}

static int ask(struct io_uring_sqe *request)
{
	unsigned *tail = (void *)(submission + params.sq_off.tail), mask = params.sq_entries - 1;
	unsigned *head = (void *)(completion + params.cq_off.head), *end = (void *)(completion + params.cq_off.tail);
	struct io_uring_cqe *results = (void *)(completion + params.cq_off.cqes);
	unsigned slot = *tail & mask;
	int result;

	entries[slot] = *request;
	((unsigned *)(submission + params.sq_off.array))[slot] = slot;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	while (__atomic_load_n(end, __ATOMIC_ACQUIRE) == *head) {
		unsigned pending = __atomic_load_n((unsigned *)(submission + params.sq_off.head), __ATOMIC_ACQUIRE);

		if (syscall(SYS_io_uring_enter, ring, *tail != pending, 1, IORING_ENTER_GETEVENTS, 0, 0) < 0)
			need(errno == EINTR, "io_uring_enter", 0);
	}
	result = results[*head & (params.cq_entries - 1)].res;
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	return result;
}

static void by_ring(int operation, const char *name, int number, int flags, int mode)
{
	struct io_uring_sqe request = {.opcode = operation, .fd = AT_FDCWD, .addr = (unsigned long)name};
	struct statx status;
	int result;

	request.open_flags = flags;
	request.len = mode;
	if (operation == IORING_OP_STATX)
		request.off = (unsigned long)&status;
	result = ask(&request);
	errno = -result;
	need(result >= 0, "io_uring", number);
	if (operation == IORING_OP_OPENAT)
		close(result);
}

/* -- the operations -- */

static int listed(const char *name)
{
	static char room[65536];
	int fd = open(name, O_RDONLY | O_DIRECTORY), calls = 0, got;

	need(fd >= 0, "list", 0);
	do {
		got = syscall(SYS_getdents64, fd, room, sizeof(room));
		need(got >= 0, "getdents", 0);
		calls++;
	} while (got > 0);
	close(fd);
	return calls;
}

static void work(const char *directory)
{
	struct open_how how = {.flags = O_CREAT | O_WRONLY, .mode = 0600};
	struct statx status;
	struct stat known;
	int i, fd;

	closed(open(directory, O_RDONLY | O_DIRECTORY), "open the directory", 0);
	snprintf(base, sizeof(base), "%s/work", directory);
	need(!mkdir(base, 0755), "mkdir", -1);
	for (i = 0; i < 101; i++)
		closed(open(at(path, "a", i), O_CREAT | O_WRONLY, 0600), "create", i);
	for (i = 0; i < 53; i++)
		closed(syscall(SYS_openat2, AT_FDCWD, at(path, "b", i), &how, sizeof(how)), "openat2", i);
	for (i = 0; i < 29; i++)
		by_ring(IORING_OP_OPENAT, at(path, "c", i), i, O_CREAT | O_WRONLY, 0600);
	for (i = 0; i < 13; i++) {
		fd = open(base, O_TMPFILE | O_RDWR, 0600);
		if (fd < 0)
			say("tmpfile", i);
		else
			close(fd);
	}
	for (i = 0; i < 17; i++)
		need(!mknod(at(path, "d", i), S_IFREG | 0600, 0), "mknod", i);
	for (i = 0; i < 5; i++)
		need(!mkfifo(at(path, "e", i), 0600), "mkfifo", i);
	for (i = 0; i < 19; i++)
		need(!symlink("nothing", at(path, "f", i)), "symlink", i);
	for (i = 0; i < 23; i++)
		need(!link(at(path, "a", i), at(other, "g", i)), "link", i);
	for (i = 0; i < 37; i++)
		need(!mkdir(at(path, "h", i), 0700), "mkdir", i);
	for (i = 0; i < 131; i++)
		closed(open(at(path, "a", i % 101), O_RDONLY), "open", i);
	for (i = 0; i < 7; i++)
		closed(open(at(path, "a", i), O_PATH), "O_PATH", i);
	for (i = 0; i < 61; i++)
		need(open(at(path, "none", 0), O_RDONLY) < 0 && errno == ENOENT, "open missing", i);
	for (i = 0; i < 211; i++)
		need(!stat(at(path, "a", i % 101), &known), "stat", i);
	fd = open(at(path, "a", 0), O_RDONLY); /* one open more */
	need(fd >= 0, "open", 132);
	for (i = 0; i < 97; i++)
		need(!fstat(fd, &known), "fstat", i);
	close(fd);
	for (i = 0; i < 43; i++)
		need(!statx(AT_FDCWD, at(path, "b", i), 0, STATX_ALL, &status), "statx", i);
	for (i = 0; i < 11; i++)
		by_ring(IORING_OP_STATX, at(path, "c", i), i, 0, STATX_ALL);
	for (i = 0; i < 127; i++) {
		need(stat(at(path, "gone", i), &known) && errno == ENOENT, "stat missing", i);
		need(stat(path, &known) && errno == ENOENT, "stat missing again", i);
	}
	for (i = 0; i < 47; i++)
		need(access(at(path, "gone", 0), R_OK) && errno == ENOENT, "access missing", i);
	for (i = 0; i < 37; i++)
		need(listed(at(path, "h", i)) == 2, "list", i);
	for (i = 0; i < 31; i++)
		need(!rename(at(path, "b", i), at(other, "renamed", i)), "rename", i);
	for (i = 0; i < 3; i++)
		need(!syscall(SYS_renameat2, AT_FDCWD, at(path, "a", i), AT_FDCWD, at(other, "c", i), 2), "exchange", i);
	for (i = 0; i < 2; i++)
		need(rename(at(path, "none", 0), at(other, "never", 0)) && errno == ENOENT, "rename missing", i);
	/* failures: what programs go by */
	for (i = 0; i < 3; i++)
		need(open(at(path, "h", i), O_WRONLY) < 0 && errno == EISDIR, "open a directory", i);
	for (i = 0; i < 41; i++)
		need(unlink(at(path, "h", i % 37)) && errno == EISDIR, "unlink a directory", i);
	for (i = 0; i < 7; i++)
		need(rmdir(base) && errno == ENOTEMPTY, "rmdir what is not empty", i);
	/* and what it has to care for */
	need(!seteuid(65534), "seteuid", 0);
	for (i = 0; i < 11; i++)
		need(open(at(path, "a", i), O_RDONLY) < 0 && errno == EACCES, "open what is another's", i);
	for (i = 0; i < 23; i++)
		need(unlink(at(path, "a", i)) && errno == EACCES, "unlink what is another's", i);
	need(!seteuid(0), "seteuid", 1);
	for (i = 0; i < 53; i++)
		need(!unlink(at(path, "a", 40 + i)), "unlink", i);
	for (i = 0; i < 7; i++)
		by_ring(IORING_OP_UNLINKAT, at(path, "c", 10 + i), i, 0, 0);
	for (i = 0; i < 59; i++)
		need(unlink(at(path, "none", 0)) && errno == ENOENT, "unlink missing", i);
	for (i = 0; i < 37; i++)
		need(!rmdir(at(path, "h", i)), "rmdir", i);
}

/* Removes each name there; the directory is opened and read too. */
static void white_out(const char *directory)
{
	char names[64][256];
	struct dirent *entry;
	DIR *open_directory = opendir(directory);
	int count = 0, i;

	need(!!open_directory, "opendir", 0);
	while ((entry = readdir(open_directory)) && count < 64)
		if (entry->d_name[0] != '.')
			strncpy(names[count++], entry->d_name, 255);
	closedir(open_directory);
	for (i = 0; i < count; i++) {
		snprintf(path, sizeof(path), "%s/%s", directory, names[i]);
		need(!unlink(path), "white out", i);
	}
}

int main(int count, char **arguments)
{
	char name[64], *procs, *rest = arguments[2], number[16];
	int namespace, fds[8], given = 0, i;

	snprintf(name, sizeof(name), "/proc/%s/ns/mnt", arguments[1]);
	namespace = open(name, O_RDONLY);
	need(namespace >= 0, name, 0);
	while ((procs = strsep(&rest, ",")))
		fds[given++] = open(procs, O_WRONLY);
	snprintf(number, sizeof(number), "%d", getpid());
	for (i = 0; i < given; i++)
		need(fds[i] >= 0 && write(fds[i], number, strlen(number)) > 0, "cgroup.procs", i);
	need(!setns(namespace, CLONE_NEWNS), "setns", 0);
	umask(0);
	make_ring();
	for (i = 3; i < count; i++) {
		size_t length = strlen(arguments[i]);

		if (length > 2 && !strcmp(arguments[i] + length - 2, "/=")) {
			arguments[i][length - 2] = 0;
			white_out(arguments[i]);
		} else {
			work(arguments[i]);
		}
	}
	return 0;
}
