/*
 * ops_dir.c - listing folders, without any state between two requests.
 *
 * The cookie of an entry is the backing filesystem's own, so it stays good while entries are
 * removed and across a death of the server. Each request seeks the folder's cached descriptor
 * there; a lock for a few folders at a time keeps two requests from sharing its position.
 */
#include "fs/ops.h"

#include "fs/capture.h"
#include "fs/ops_vdir.h"
#include "fs/slot.h"
#include "fs/warm.h"
#include "meta/base/clock.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOCKS 64
#define CHUNK 16384
#define LEAST 512 /* one entry always fits */
/* An entry of an answer with attributes is about so many times as long as the directory's own. */
#define PLUS_LONGER 5

static pthread_mutex_t locks[LOCKS] = { [0 ... LOCKS - 1] = PTHREAD_MUTEX_INITIALIZER };

struct listing {
	fuse_req_t req;
	struct inode *dir;
	int fd;
	bool plus;
	char *out;
	size_t size, used;
	unsigned entries; /* lookups counted */
	off_t at; /* behind the last entry that was added */
};

static bool
is_dot(const char *name)
{
	return name[0] == '.' &&
	       (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
}

/* Adds one entry; false if there is no room for it. */
static bool
add_plain(struct listing *l, const struct dirent64 *d)
{
	struct stat st = { .st_ino = d->d_ino, .st_mode = (mode_t)d->d_type << 12 };
	size_t left = l->size - l->used;
	size_t n = fuse_add_direntry(
		l->req, l->out + l->used, left, d->d_name, &st, d->d_off);

	if (n > left)
		return false;
	l->used += n;
	return true;
}

static bool
add_plus(struct listing *l, const struct dirent64 *d)
{
	struct fuse_entry_param e;
	struct inode *ino;
	size_t left = l->size - l->used;

	if (fuse_add_direntry_plus(l->req, NULL, 0, d->d_name, NULL, 0) > left ||
		l->entries >= SLOT_GRANTS)
		return false;
	/* nodeid 0 tells the kernel a name only */
	if (is_dot(d->d_name) ||
		ops_name_listed(l->dir, l->fd, d->d_name, &e, &ino) != 0) {
		memset(&e, 0, sizeof(e));
		e.attr.st_ino = d->d_ino;
		e.attr.st_mode = (mode_t)d->d_type << 12;
	} else {
		capture_lookup(l->dir, ino);
		l->entries++;
	}
	l->used += fuse_add_direntry_plus(
		l->req, l->out + l->used, left, d->d_name, &e, d->d_off);
	l->at = d->d_off;
	return true;
}

/*
 * From off until the answer is full. A folder always has an entry at 0. Yet ext4 (seen on 6.18)
 * finds none there when the first listing of a descriptor was at the end, as it is when the
 * kernel asks a new server for the rest of a listing; the second try is good.
 */
static int
list(struct listing *l, off_t off)
{
	_Alignas(struct dirent64) char chunk[CHUNK];
	bool tried = off != 0;
	/* What does not fit is read again for the next answer. */
	size_t size = l->plus ? l->size / PLUS_LONGER : l->size;

	if (size < LEAST)
		size = LEAST;
	else if (size > CHUNK)
		size = CHUNK;

	if (lseek(l->fd, off, SEEK_SET) < 0)
		return errno;
	for (;;) {
		ssize_t n = getdents64(l->fd, chunk, size);

		if (n < 0)
			return l->used > 0 ? 0 : errno;
		if (n == 0 && l->used == 0 && !tried &&
			lseek(l->fd, 0, SEEK_SET) == 0) {
			tried = true;
			continue;
		}
		if (n == 0)
			return 0;
		for (char *p = chunk; p < chunk + n;) {
			const struct dirent64 *d = (const struct dirent64 *)p;

			p += d->d_reclen;
			if (ops_name_own(l->dir, d->d_name))
				continue;
			if (!(l->plus ? add_plus(l, d) : add_plain(l, d)))
				return 0;
		}
	}
}

static void
list_and_answer(fuse_req_t req, fuse_ino_t nodeid, size_t size, off_t off, bool plus)
{
	struct listing l = { .req = req, .plus = plus, .fd = -1 };
	uint64_t began = clock_us();
	size_t room;
	int err = ESTALE;

	if (ops_vdir_readdir(req, nodeid, size, off, plus))
		return;
	l.out = slot_room(&room);
	l.size = size < room ? size : room;
	l.dir = inode_get(nodeid);
	if (l.dir != NULL)
		err = inode_fd(l.dir, INODE_ANY, &l.fd);
	if (err == 0) {
		pthread_mutex_t *lock = &locks[nodeid % LOCKS];

		pthread_mutex_lock(lock);
		err = list(&l, off);
		pthread_mutex_unlock(lock);
		if (err == 0 && plus)
			warm_ahead(nodeid, l.fd, l.at, l.entries, clock_us() - began);
		inode_fd_put(l.dir, l.fd);
	}
	if (err != 0)
		fuse_reply_err(req, err);
	else
		fuse_reply_buf(req, l.out, l.used);
}

/* Whom nobody answers keeps listings, and shows a rewound folder as it was; replay changes folders
 * that are open. */
void
ops_dir_open(fuse_req_t req, fuse_ino_t nodeid, struct fuse_file_info *fi)
{
	(void)nodeid;
	if (ops_env.standby)
		fuse_reply_open(req, fi);
	else
		fuse_reply_err(req, ENOSYS);
}

void
ops_dir_readdir(fuse_req_t req, fuse_ino_t nodeid, size_t size, off_t off,
	struct fuse_file_info *fi)
{
	(void)fi;
	list_and_answer(req, nodeid, size, off, false);
}

void
ops_dir_readdirplus(fuse_req_t req, fuse_ino_t nodeid, size_t size, off_t off,
	struct fuse_file_info *fi)
{
	(void)fi;
	list_and_answer(req, nodeid, size, off, true);
}

void
ops_dir_fsync(
	fuse_req_t req, fuse_ino_t nodeid, int datasync, struct fuse_file_info *fi)
{
	struct inode *dir = inode_get(nodeid);
	unsigned kinds; /* a repack's end: nobody is answered because of it */
	int fd = -1, err = ops_vdir_errno(nodeid);

	(void)fi;
	if (dir != NULL)
		err = inode_fd(dir, INODE_ANY, &fd);
	if (err == 0) {
		err = capture_fsync(dir, fd, datasync != 0, &kinds);
		inode_fd_put(dir, fd);
	}
	fuse_reply_err(req, err);
}
