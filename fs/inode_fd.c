/*
 * inode_fd.c - the bounded cache of descriptors.
 *
 * A file has at most two cached: one to read by (O_PATH for what is neither file nor folder)
 * and a read-write one, which also serves readers. Users are counted; without users a descriptor
 * waits in a list, least recently used last, and the last is closed when room is needed. If all
 * are in use, one more is opened and closed by its only user: the bound is of the cache.
 *
 * inode_fd_put finds the cache entry by the descriptor's number; a number that is not in the
 * cache is one that nobody else uses.
 */
#include "fs/inode_own.h"

#include "meta/base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define FD_NUMBERS (1u << 18) /* descriptors above are never cached */
#define READER 0
#define WRITER 1

struct cached {
	int fd; /* -1: free */
	struct inode *ino; /* NULL: its entry is gone, closed by the last user */
	int which;
	unsigned users;
	int newer, older; /* in the list of the unused, -1 ends */
};

static struct {
	struct cached *all;
	unsigned max, used;
	int newest, oldest;
	int free; /* through older */
	uint32_t *by_fd; /* number in all + 1 */
} fds;

int
inode_fd_start(unsigned max)
{
	/* what an earlier life in this process had; a server has one */
	free(fds.all);
	free(fds.by_fd);
	fds.used = 0;
	fds.all = calloc(max, sizeof(*fds.all));
	fds.by_fd = calloc(FD_NUMBERS, sizeof(*fds.by_fd));
	if (fds.all == NULL || fds.by_fd == NULL)
		return ERR_NOMEM;
	fds.max = max;
	fds.newest = fds.oldest = fds.free = -1;
	return 0;
}

/* ---- the list of the unused ---- */

static void
list_out(int k)
{
	struct cached *c = &fds.all[k];

	*(c->newer >= 0 ? &fds.all[c->newer].older : &fds.newest) = c->older;
	*(c->older >= 0 ? &fds.all[c->older].newer : &fds.oldest) = c->newer;
}

static void
list_in(int k)
{
	struct cached *c = &fds.all[k];

	c->newer = -1;
	c->older = fds.newest;
	*(fds.newest >= 0 ? &fds.all[fds.newest].newer : &fds.oldest) = k;
	fds.newest = k;
}

/* Out of the cache; its descriptor is returned for closing. */
static int
evict(int k)
{
	struct cached *c = &fds.all[k];
	int fd = c->fd;

	if (c->ino != NULL)
		inode_own(c->ino)->cached[c->which] = 0;
	fds.by_fd[fd] = 0;
	c->fd = -1;
	c->ino = NULL;
	c->older = fds.free;
	fds.free = k;
	return fd;
}

/* Puts fd into the cache with one user; false if it cannot be there. Lock held. */
static bool
insert(struct inode *ino, int fd, int which, int *close_out)
{
	int k = fds.free;

	*close_out = -1;
	if ((unsigned)fd >= FD_NUMBERS || inode_own(ino)->cached[which] != 0)
		return false;
	if (k < 0 && fds.used < fds.max) {
		k = (int)fds.used++;
	} else {
		if (k < 0) {
			k = fds.oldest;
			if (k < 0)
				return false;
			list_out(k);
			*close_out = evict(k);
		}
		fds.free = fds.all[k].older;
	}
	fds.all[k] =
		(struct cached){ .fd = fd, .ino = ino, .which = which, .users = 1 };
	inode_own(ino)->cached[which] = (uint32_t)k + 1;
	fds.by_fd[fd] = (uint32_t)k + 1;
	return true;
}

/* A cached descriptor that serves the mode, or -1. Lock held. */
static int
cached_for(struct inode *ino, enum inode_fd_mode mode)
{
	uint32_t k = inode_own(ino)->cached[WRITER];

	if (k == 0 && mode != INODE_WRITE)
		k = inode_own(ino)->cached[READER];
	if (k-- == 0)
		return -1;
	if (fds.all[k].users++ == 0)
		list_out((int)k);
	return fds.all[k].fd;
}

/* ---- */

static int
open_for(struct inode *ino, enum inode_fd_mode mode)
{
	switch (inode_type(ino)) {
	case S_IFREG:
		return inode_open_handle(
			ino, (mode == INODE_WRITE ? O_RDWR : O_RDONLY) | O_NOFOLLOW);
	case S_IFDIR:
		if (mode != INODE_WRITE)
			return inode_open_handle(ino, O_RDONLY | O_DIRECTORY);
		errno = EISDIR;
		return -1;
	default:
		return inode_open_handle(ino, O_PATH | O_NOFOLLOW);
	}
}

int
inode_fd(struct inode *ino, enum inode_fd_mode mode, int *fd_out)
{
	int which = mode == INODE_WRITE ? WRITER : READER;
	int fd, raced, extra = -1;

	pthread_mutex_lock(&inode_tab.lock);
	fd = cached_for(ino, mode);
	pthread_mutex_unlock(&inode_tab.lock);
	if (fd < 0) {
		fd = open_for(ino, mode);
		if (fd < 0) {
			*fd_out = -1;
			return errno;
		}
		pthread_mutex_lock(&inode_tab.lock);
		raced = cached_for(ino, mode);
		if (raced < 0)
			(void)insert(ino, fd, which, &extra);
		pthread_mutex_unlock(&inode_tab.lock);
		if (raced >= 0) {
			extra = fd;
			fd = raced;
		}
		if (extra >= 0)
			close(extra);
	}
	*fd_out = fd;
	return 0;
}

void
inode_fd_put(struct inode *ino, int fd)
{
	uint32_t k = 0;
	int dead = -1;

	(void)ino;
	if (fd < 0)
		return;
	pthread_mutex_lock(&inode_tab.lock);
	if ((unsigned)fd < FD_NUMBERS)
		k = fds.by_fd[fd];
	if (k == 0) {
		dead = fd;
	} else if (--fds.all[k - 1].users == 0) {
		if (fds.all[k - 1].ino == NULL)
			dead = evict((int)k - 1);
		else
			list_in((int)k - 1);
	}
	pthread_mutex_unlock(&inode_tab.lock);
	if (dead >= 0)
		close(dead);
}

void
inode_fd_adopt(struct inode *ino, int fd)
{
	int extra = -1;
	bool in;

	pthread_mutex_lock(&inode_tab.lock);
	in = insert(ino, fd, WRITER, &extra);
	pthread_mutex_unlock(&inode_tab.lock);
	if (extra >= 0)
		close(extra);
	if (in)
		inode_fd_put(ino, fd);
	else
		close(fd);
}

void
inode_fd_disown(struct inode *ino, struct inode_dead *dead)
{
	for (int which = READER; which <= WRITER; which++) {
		uint32_t k = inode_own(ino)->cached[which];

		if (k-- == 0)
			continue;
		if (fds.all[k].users == 0) {
			list_out((int)k);
			dead->fds[dead->nfds++] = evict((int)k);
		} else {
			inode_own(ino)->cached[which] = 0;
			fds.all[k].ino = NULL;
		}
	}
}
