/*
 * body.c - message bodies on their way to a peer: those that a row brings, and those that it asked
 * for.
 *
 * A body is read from its place in the spool, else from kept/, and checked against its GUID before a
 * byte of it goes out. A small one is in memory then; of a large one the file is open, and it is read
 * once more as the session takes it.
 */
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "meta/scan.h"
#include "meta/spool.h"
#include "sync/node.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	SMALL_BODY = 1 << 20,
	LARGE_BODY = 16 << 20, /* takes a while to read */
	SLOW_US = 40, /* a small one that takes longer comes from the disk */
	AHEAD_BYTES = 256 << 10,
	/* A standby asks for one body of each lane at a time, and again in a new session. */
	WANTED_MAX = 2 * 4096
};

/* ---- one body ---- */

void
body_close(struct peer *p)
{
	struct outbody *b = &p->body;

	if (b->on && b->fd >= 0)
		close(b->fd);
	free(b->bytes);
	*b = (struct outbody){ .fd = -1 };
}

static ssize_t
read_small(struct peer *p, int fd, uint64_t size)
{
	uint64_t began = clock_us();
	ssize_t n = pread(fd, p->body.bytes, size + 1, 0);

	p->slow = clock_us() - began > SLOW_US;
	return n;
}

/* Opens and checks the body at fd (taken). ERR_BODY if it is not what the GUID says, ERR_BUSY if that
 * cannot be said yet. */
static int
body_check(struct peer *p, int fd, const uint8_t guid[SHA1_LEN], uint64_t size)
{
	struct outbody *b = &p->body;
	uint8_t found[SHA1_LEN];
	struct stat st;
	int rc = 0;

	*b = (struct outbody){ .fd = fd, .total = size, .on = true };
	memcpy(b->guid, guid, SHA1_LEN);
	if (size > SMALL_BODY) {
		if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) ||
			(uint64_t)st.st_size != size)
			rc = ERR_BODY;
		else if (size > LARGE_BODY)
			rc = digest_file(p, fd, &st, found);
		else
			rc = hash_sha1_fd(fd, found, NULL);
	} else if ((b->bytes = malloc(size + 1)) == NULL) {
		rc = ERR_NOMEM;
	} else if (read_small(p, fd, size) != (ssize_t)size) {
		rc = ERR_BODY; /* shorter, longer, or nothing to read at a place */
	} else {
		hash_sha1(b->bytes, size, found);
		close(b->fd);
		b->fd = -1;
	}
	if (rc == 0 && memcmp(found, guid, SHA1_LEN) != 0)
		rc = ERR_BODY;
	if (rc != 0)
		body_close(p);
	return rc;
}

/* Is it worth looking elsewhere? */
static bool
is_wrong(int rc)
{
	return rc != 0 && rc != ERR_NOMEM && rc != ERR_BUSY;
}

/* The body from its place in the spool, else from kept/. */
static int
body_open(struct peer *p, const char *dir, const char *name,
	const uint8_t guid[SHA1_LEN], uint64_t size)
{
	struct spool *sp = p->node->spool;
	int fd, rc = ERR_NOTFOUND;

	if (spool_file(sp, dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, &fd) == 0)
		rc = body_check(p, fd, guid, size);
	if (is_wrong(rc) && spool_kept_open(sp, guid, &fd) == 0)
		rc = body_check(p, fd, guid, size);
	return rc;
}

int
body_find(struct peer *p, uint64_t seq, const char *dir, const char *name,
	const uint8_t guid[SHA1_LEN], uint64_t size)
{
	char now[BATCH_MAX_PATH];
	int rc = body_open(p, dir, name, guid, size);

	if (is_wrong(rc) && moves_now(p->node->moves, seq, dir, now, sizeof(now)))
		rc = body_open(p, now, name, guid, size);
	if (rc != ERR_BUSY)
		digest_forget(p);
	return rc;
}

/* In its folder, which stays open for the row: what is found there is right whatever the folder is
 * called by now; what is not is looked for by name. */
int
body_of_row(
	struct peer *p, const char *name, const uint8_t guid[SHA1_LEN], uint64_t size)
{
	int fd, rc;

	if (!p->row_at_on && spool_file(p->node->spool, p->batch.dir, NULL,
				     O_PATH | O_DIRECTORY, 0, &p->row_at) == 0)
		p->row_at_on = true;
	if (p->row_at_on) {
		fd = openat(p->row_at, name,
			O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
		rc = fd >= 0 ? body_check(p, fd, guid, size) : ERR_NOTFOUND;
		if (rc == 0)
			digest_forget(p);
		if (!is_wrong(rc))
			return rc;
	}
	return body_find(p, p->row_pos.seq, p->batch.dir, name, guid, size);
}

void
body_ahead(struct peer *p, const char *name)
{
	int fd = p->row_at_on ? openat(p->row_at, name,
					O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
			      : -1;

	if (fd < 0)
		return;
	(void)posix_fadvise(fd, 0, AHEAD_BYTES, POSIX_FADV_WILLNEED);
	close(fd);
}

static bool
send_gone(struct peer *p, const uint8_t guid[SHA1_LEN])
{
	struct wire_gone gone;

	memcpy(gone.guid, guid, SHA1_LEN);
	return session_send(p->session, WIRE_GONE, &gone) == 0;
}

bool
body_send(struct peer *p)
{
	struct outbody *b = &p->body;
	uint8_t chunk[WIRE_BODY_MAX];

	do {
		uint64_t left = b->total - b->at;
		size_t n = left < sizeof(chunk) ? (size_t)left : sizeof(chunk);
		const uint8_t *data = b->bytes != NULL ? b->bytes + b->at : chunk;
		if (b->bytes == NULL &&
			pread(b->fd, chunk, n, (off_t)b->at) != (ssize_t)n) {
			/* Cut short behind our back: the peer drops what it has of it. */
			if (!send_gone(p, b->guid))
				return false;
			body_close(p);
			return true;
		}
		struct wire_body m = {
			.total = b->total, .offset = b->at, .data = { data, n }
		};
		memcpy(m.guid, b->guid, SHA1_LEN);
		if (session_send(p->session, WIRE_BODY, &m) != 0)
			return false;
		b->at += n;
		tally_body(p, n, b->at == b->total);
		p->node->body_bytes_sent += n;
	} while (b->at < b->total);
	p->node->bodies_sent++;
	body_close(p);
	return true;
}

/* ---- asked for ---- */

static void
drop_wanted(struct peer *p)
{
	struct wanted *w = p->wanted;

	p->wanted = w->next;
	if (p->wanted == NULL)
		p->wanted_end = &p->wanted;
	p->n_wanted--;
	free(w->dir);
	free(w);
}

bool
body_wanted(struct peer *p)
{
	struct wanted *w = p->wanted;
	char name[SCAN_BODY_NAME];

	/* Not even that one is gone can be said for now; it is tried again with the next tick. */
	if (w == NULL || session_full(p->session))
		return false;
	scan_body_name(w->uid, name);
	/* The peer may ask by any name that the folder had. */
	int rc = body_find(p, 0, w->dir, w->uid != 0 ? name : NULL, w->guid, w->size);
	if (rc == ERR_BUSY)
		return false;
	if (rc != 0) {
		(void)send_gone(p, w->guid);
		log_warn("a body that a peer asked for is not there: dir=%s "
			 "uid=%" PRIu32,
			w->dir, w->uid);
	}
	drop_wanted(p);
	return true;
}

int
body_on_need(void *node, struct session *s, const void *msg)
{
	struct peer *p = duty_peer(node, s);
	const struct wire_need *m = msg;
	struct wanted *w;

	if (p->n_wanted == WANTED_MAX)
		return session_reject(s, ERR_LIMIT, WIRE_BYE_BUSY,
			"more NEED than a standby can have");
	w = calloc(1, sizeof(*w));
	if (w == NULL || (w->dir = strdup(m->dir)) == NULL) {
		free(w);
		return ERR_NOMEM;
	}
	memcpy(w->guid, m->guid, SHA1_LEN);
	w->size = m->size;
	w->uid = m->uid;
	*p->wanted_end = w;
	p->wanted_end = &w->next;
	p->n_wanted++;
	send_pump(p);
	return 0;
}

void
body_forget_wanted(struct peer *p)
{
	while (p->wanted != NULL)
		drop_wanted(p);
}
