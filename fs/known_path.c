/*
 * How it works. One place for each folder, by its nodeid; the last one that came there has it.
 */
#include "fs/known_path.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PLACES = 256 };

struct known {
	uint64_t nodeid, names;
	char *path; /* NULL: nothing */
};

static struct known places[PLACES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct known *
place_of(uint64_t nodeid)
{
	return &places[(nodeid ^ nodeid >> 8) % PLACES];
}

static bool
recall(uint64_t nodeid, uint64_t names, char *buf, size_t size)
{
	struct known *k = place_of(nodeid);
	bool found = false;

	pthread_mutex_lock(&lock);
	if (k->path != NULL && k->nodeid == nodeid && k->names == names &&
		strlen(k->path) < size) {
		strcpy(buf, k->path);
		found = true;
	}
	pthread_mutex_unlock(&lock);
	return found;
}

static void
remember(uint64_t nodeid, uint64_t names, const char *path)
{
	struct known *k = place_of(nodeid);
	char *copy = strdup(path);

	pthread_mutex_lock(&lock);
	free(k->path);
	*k = (struct known){ nodeid, names, copy };
	pthread_mutex_unlock(&lock);
}

/* Is it there, and under that path? */
static bool
leads_to(struct inode *dir, const char *path)
{
	struct stat is, at;
	int fd;

	if (inode_fd(dir, INODE_ANY, &fd) != 0)
		return false;
	bool same = fstat(fd, &is) == 0 && is.st_nlink > 0 &&
		    fstatat(inode_root_fd(), path, &at, AT_SYMLINK_NOFOLLOW) == 0 &&
		    at.st_ino == is.st_ino && at.st_dev == is.st_dev;
	inode_fd_put(dir, fd);
	return same;
}

int
known_path(struct inode *dir, uint64_t names, char *buf, size_t size)
{
	uint64_t nodeid = inode_nodeid(dir);
	int err;

	if (recall(nodeid, names, buf, size) && leads_to(dir, buf))
		return 0;
	err = inode_path(dir, buf, size);
	if (err == 0 && buf[0] != '\0')
		remember(nodeid, names, buf);
	return err;
}
