/*
 * digest.c - the SHA-1 of a large file, worked out beside the peer thread, which has heartbeats to
 * send and confirmations to hear meanwhile.
 *
 * What was found is remembered by inode for as long as one body is looked for: whoever asks comes
 * again through send_pump, opens the same files in the same order, and has one answer more each time.
 */
#include "meta/base/err.h"
#include "sync/node.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { KNOWN = 6, CHUNK = 1 << 20 };

struct known {
	dev_t dev;
	ino_t ino;
	off_t size;
	struct timespec mtime;
	int rc;
	uint8_t sha1[SHA1_LEN];
};

struct digest {
	struct peer *p;
	struct known known[KNOWN];
	unsigned n;
	int fd; /* of the last of them, while the thread runs */
	pthread_t thread;
	bool runs;
	_Atomic bool stop, ended;
	struct loop_call call;
};

static int
digest_fd(struct digest *d, uint8_t out[SHA1_LEN])
{
	struct hash_sha1 *h = hash_sha1_begin();
	uint8_t *chunk = malloc(CHUNK);
	off_t at = 0;
	ssize_t n = -1;

	while (h != NULL && chunk != NULL && !d->stop &&
		((n = pread(d->fd, chunk, CHUNK, at)) > 0 || (n < 0 && errno == EINTR)))
		if (n > 0) {
			hash_sha1_add(h, chunk, (size_t)n);
			at += n;
		}
	if (h != NULL)
		hash_sha1_end(h, out);
	int rc = h == NULL || chunk == NULL ? ERR_NOMEM : n != 0 ? ERR_IO : 0;
	free(chunk);
	return rc;
}

static void *
digest_main(void *arg)
{
	struct digest *d = arg;
	struct known *k = &d->known[d->n - 1];

	k->rc = digest_fd(d, k->sha1);
	d->ended = true;
	loop_raise(d->p->node->loop, &d->call);
	return NULL;
}

static void
on_ended(void *arg)
{
	struct digest *d = arg;

	send_pump(d->p);
}

static void
join(struct digest *d)
{
	if (!d->runs)
		return;
	pthread_join(d->thread, NULL);
	close(d->fd);
	d->runs = false;
	d->ended = false;
}

static bool
is_same(const struct known *k, const struct stat *st)
{
	return k->dev == st->st_dev && k->ino == st->st_ino && k->size == st->st_size &&
	       memcmp(&k->mtime, &st->st_mtim, sizeof(k->mtime)) == 0;
}

static int
begin(struct digest *d, int fd, const struct stat *st)
{
	struct known *k = &d->known[d->n];

	if (d->n == KNOWN)
		return ERR_BODY; /* it is written to all the time */
	*k = (struct known){ .dev = st->st_dev,
		.ino = st->st_ino,
		.size = st->st_size,
		.mtime = st->st_mtim };
	if ((d->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0)) < 0)
		return ERR_NOMEM;
	d->n++;
	if (pthread_create(&d->thread, NULL, digest_main, d) != 0) {
		d->n--;
		close(d->fd);
		return ERR_NOMEM;
	}
	d->runs = true;
	return ERR_BUSY;
}

static struct digest *
new_digest(struct peer *p)
{
	struct digest *d = calloc(1, sizeof(*d));

	if (d != NULL) {
		d->p = p;
		d->call = (struct loop_call){ .fn = on_ended, .arg = d };
	}
	return d;
}

int
digest_file(struct peer *p, int fd, const struct stat *st, uint8_t out[SHA1_LEN])
{
	struct digest *d = p->digest;

	if (d == NULL && (d = p->digest = new_digest(p)) == NULL)
		return ERR_NOMEM;
	if (d->runs && !d->ended)
		return ERR_BUSY;
	join(d);
	for (unsigned i = 0; i < d->n; i++)
		if (is_same(&d->known[i], st)) {
			memcpy(out, d->known[i].sha1, SHA1_LEN);
			return d->known[i].rc;
		}
	return begin(d, fd, st);
}

void
digest_forget(struct peer *p)
{
	struct digest *d = p->digest;

	if (d == NULL)
		return;
	d->stop = true;
	join(d);
	loop_call_cancel(p->node->loop, &d->call);
	free(d);
	p->digest = NULL;
}
