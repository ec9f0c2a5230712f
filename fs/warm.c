/*
 * warm.c - a stat of each name brings its inode from the disk into the kernel's cache.
 *
 * `ahead` counts the names that were read and not yet listed. Another listing of the same folder
 * makes it wrong by some; then it is begun anew, or a few names are read for nothing.
 */
#include "fs/warm.h"
#include "meta/base/clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

enum { AHEAD = 512, CHUNK = 16384, SLOW_US = 6, IDLE_SECONDS = 1 };

static struct {
	pthread_mutex_t lock;
	pthread_cond_t more;
	bool on; /* the thread runs */
	uint64_t nodeid;
	int fd; /* to be taken over by the thread, -1 if it has it */
	bool end; /* there is nothing left ahead */
	long ahead;
} w = { .lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER, .fd = -1 };

/* Reads the next names; how many, 0 at the end. */
static long
read_some(int fd)
{
	_Alignas(struct dirent64) char chunk[CHUNK];
	ssize_t n = getdents64(fd, chunk, sizeof(chunk));
	struct stat st;
	long names = 0;

	for (char *p = chunk; p < chunk + n; names++) {
		const struct dirent64 *d = (const struct dirent64 *)p;

		(void)fstatat(fd, d->d_name, &st, AT_SYMLINK_NOFOLLOW);
		p += d->d_reclen;
	}
	return names;
}

/* Lock held. False if nobody has listed anything for a while. */
static bool
wait_for_more(void)
{
	struct timespec until = clock_until(IDLE_SECONDS * 1000);

	while (w.fd < 0 && (w.end || w.ahead >= AHEAD))
		if (clock_wait(&w.more, &w.lock, &until) == ETIMEDOUT)
			return false;
	return true;
}

static void *
warm_main(void *arg)
{
	int fd = -1;

	pthread_mutex_lock(&w.lock);
	while (wait_for_more()) {
		if (w.fd >= 0) {
			if (fd >= 0)
				close(fd);
			fd = w.fd;
			w.fd = -1;
		}
		uint64_t nodeid = w.nodeid;
		pthread_mutex_unlock(&w.lock);
		long n = read_some(fd);
		pthread_mutex_lock(&w.lock);
		if (w.fd < 0 && w.nodeid == nodeid) {
			w.ahead += n;
			w.end = n == 0;
		}
	}
	w.on = false;
	w.nodeid = 0;
	pthread_mutex_unlock(&w.lock);
	if (fd >= 0)
		close(fd);
	return arg;
}

/* Lock held. */
static bool
begin(void)
{
	pthread_attr_t attr;
	sigset_t all, was;
	pthread_t thread;

	if (w.on)
		return true;
	if (pthread_attr_init(&attr) != 0)
		return false;
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &was);
	w.on = pthread_create(&thread, &attr, warm_main, NULL) == 0;
	pthread_sigmask(SIG_SETMASK, &was, NULL);
	pthread_attr_destroy(&attr);
	return w.on;
}

void
warm_ahead(uint64_t nodeid, int dirfd, off_t at, unsigned entries, uint64_t us)
{
	int fd = -1;

	pthread_mutex_lock(&w.lock);
	bool known = w.on && w.nodeid == nodeid;
	if (known)
		w.ahead -= entries;
	if (entries > 0 &&
		(known ? w.ahead < -AHEAD : us > (uint64_t)entries * SLOW_US))
		fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0 && lseek(fd, at, SEEK_SET) == at && begin()) {
		if (w.fd >= 0)
			close(w.fd);
		w.fd = fd;
		w.nodeid = nodeid;
		w.ahead = 0;
		w.end = false;
	} else if (fd >= 0) {
		close(fd);
	}
	if (w.on)
		pthread_cond_signal(&w.more);
	pthread_mutex_unlock(&w.lock);
}
