/*
 * What one operation on a file takes: files_guest DIRECTORY prints {"open": ns, "stat": ns, ...}, the best of
 * five rounds of so many. Without Python, whose own work between two calls differs by more than what is
 * measured.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define EACH   400
#define ROUNDS 5

static char path[EACH][256], other[256], gone[256];

static long long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void need(int done, const char *what)
{
	if (!done) {
		perror(what);
		exit(1);
	}
}

enum what { opening, statting, missing, making, removing, renaming, kinds };
static const char *const names[kinds] = {"open", "stat", "missing", "create", "unlink", "rename"};

static void act(enum what what, int i)
{
	struct stat status;
	int fd;

	switch (what) {
	case opening:
		fd = open(path[i], O_RDONLY);
		need(fd >= 0, "open");
		close(fd);
		break;
	case statting:
		need(!stat(path[i], &status), "stat");
		break;
	case missing:
		need(stat(gone, &status) && errno == ENOENT, "missing");
		break;
	case making:
		fd = open(path[i], O_CREAT | O_WRONLY, 0600);
		need(fd >= 0, "create");
		close(fd);
		break;
	case removing:
		need(!unlink(path[i]), "unlink");
		break;
	default:
		need(!rename(path[i], other) && !rename(other, path[i]), "rename");
	}
}

int main(int count, char **arguments)
{
	static const enum what order[] = {making, opening, statting, missing, renaming, removing};
	long long best[kinds], begun, took;
	int round, one, i;

	(void)count;
	for (i = 0; i < EACH; i++)
		snprintf(path[i], sizeof(path[i]), "%s/file%03d", arguments[1], i);
	snprintf(other, sizeof(other), "%s/other", arguments[1]);
	snprintf(gone, sizeof(gone), "%s/gone", arguments[1]);
	for (round = 0; round < ROUNDS; round++)
		for (one = 0; one < kinds; one++) {
			begun = now();
			for (i = 0; i < EACH; i++)
				act(order[one], i);
			took = now() - begun;
			if (!round || took < best[order[one]])
				best[order[one]] = took;
		}
	for (one = 0; one < kinds; one++)
		printf("%s\"%s\": %.0f%s", one ? ", " : "{", names[one],
		       (double)best[one] / EACH / (one == renaming ? 2 : 1), one == kinds - 1 ? "}\n" : "");
	return 0;
}
