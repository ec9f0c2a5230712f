/*
 * The log lies in pieces, files of some megabytes. Each has a generation, larger than that of the
 * one before it; a piece that nobody needs is overwritten from its beginning under a new one. So
 * most syncs write into space that the file has already, and the file system has nothing to do
 * but write the data.
 *
 *   record   be32 size, be32 CRC-32 of what follows, be64 generation, then size bytes:
 *   row      'R' be64 epoch, run, seq, the folder and a NUL, the batch
 *   body     'B' GUID, the message
 *   staged   'S' GUID: a large one, in the spool's staging
 *
 * A piece ends at the first record that is not one, or is of another generation. A piece is left
 * for the next only between a row and the bodies of the next one, so whoever names the last row of
 * a piece names all that it has bodies for.
 */
#include "sync/arrivals.h"
#include "meta/base/buf.h"
#include "meta/base/clock.h"
#include "meta/base/cur.h"
#include "meta/base/disk.h"
#include "meta/base/err.h"
#include "meta/base/fault.h"
#include "meta/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	PIECES = 64,
	PIECE_SIZE = 8 << 20, /* from here on the next one is begun */
	GROW = 1 << 20,
	WRITE_FROM = 4 << 20, /* so much is written before its sync */
	KEEP_FREE = 2,
	HEAD = 16,
	ROW_HEAD = 1 + 24,
	BODY_HEAD = 1 + SHA1_LEN,
	RECORD_MAX = STORE_MAX_BLOB + STORE_MAX_DIR + ROW_HEAD
};

struct piece {
	int fd; /* -1: there is no file */
	uint64_t gen; /* 0: nothing in it is needed */
	uint64_t size; /* of the file */
	struct pos last; /* the last row in it or before it */
};

struct arrivals {
	int dir_fd;
	struct piece pieces[PIECES];
	struct piece *now; /* written to; NULL: none yet */
	uint64_t at; /* where the next byte of buf goes */
	uint64_t gen; /* the highest one used */
	struct pos last;
	bool dangling; /* bodies whose row is still to come */
	struct buf buf;
	int failed; /* since the last sync that was good */
	struct arrivals_facts facts;
};

static void
name_of(const struct arrivals *a, const struct piece *p, char out[32])
{
	snprintf(out, 32, "arrivals.%d", (int)(p - a->pieces));
}

/* ---- reading ---- */

struct record {
	uint64_t gen;
	const uint8_t *p; /* behind the head */
	size_t n;
};

/* The record at *at of n bytes, of generation gen (0: any); moves *at behind it. */
static bool
next_record(const uint8_t *bytes, size_t n, size_t *at, uint64_t gen, struct record *r)
{
	struct rd head = rd_over(bytes + *at, n - *at);
	uint64_t size = rd_be32(&head);
	uint32_t crc = rd_be32(&head);

	r->gen = rd_be64(&head);
	if (!rd_ok(&head) || size == 0 || size > RECORD_MAX || size > rd_left(&head) ||
		r->gen == 0 || (gen != 0 && r->gen != gen))
		return false;
	/* the generation is part of what the sum is about */
	if (hash_crc32(0, bytes + *at + 8, 8 + size) != crc)
		return false;
	r->p = bytes + *at + HEAD;
	r->n = size;
	*at += HEAD + size;
	return true;
}

static bool
row_of(const struct record *r, struct inbox_item *item)
{
	struct rd in = rd_over(r->p, r->n);
	const char *dir = (const char *)r->p + ROW_HEAD;

	if (r->n <= ROW_HEAD || rd_u8(&in) != 'R')
		return false;
	item->pos.epoch = rd_be64(&in);
	item->pos.run = rd_be64(&in);
	item->pos.seq = rd_be64(&in);
	const char *end = memchr(dir, '\0', r->n - ROW_HEAD);
	if (!rd_ok(&in) || end == NULL)
		return false;
	item->dir = dir;
	item->bytes = end + 1;
	item->n = r->n - (size_t)(end + 1 - (const char *)r->p);
	return true;
}

struct walk {
	struct pos applied;
	const struct arrivals_found *found;
	void *arg;
};

/* The bodies from record `from` up to `to`: NULL found only moves. */
static int
give_bodies(const struct walk *w, const uint8_t *bytes, size_t from, size_t to,
	uint64_t gen)
{
	struct record r;
	int rc = 0;

	while (rc == 0 && from < to && next_record(bytes, to, &from, gen, &r)) {
		if (r.n < BODY_HEAD)
			continue;
		if (r.p[0] == 'B' && w->found->body != NULL)
			rc = w->found->body(
				w->arg, r.p + 1, r.p + BODY_HEAD, r.n - BODY_HEAD);
		else if (r.p[0] == 'S' && w->found->staged != NULL)
			rc = w->found->staged(w->arg, r.p + 1);
	}
	return rc;
}

static int
walk_piece(struct arrivals *a, struct piece *p, const uint8_t *bytes, size_t n,
	const struct walk *w)
{
	size_t at = 0, bodies = 0, before;
	struct inbox_item item;
	struct record r;
	int rc = 0;

	while (rc == 0 && (before = at, next_record(bytes, n, &at, p->gen, &r))) {
		if (!row_of(&r, &item))
			continue;
		if (pos_cmp(item.pos, w->applied) > 0) {
			rc = give_bodies(w, bytes, bodies, before, p->gen);
			if (rc == 0 && w->found->row != NULL)
				rc = w->found->row(w->arg, &item);
		}
		bodies = at;
		if (pos_cmp(item.pos, a->last) > 0)
			a->last = item.pos;
	}
	/* Bodies that were asked for may stand behind the last row. */
	if (rc == 0 && pos_cmp(a->last, w->applied) > 0)
		rc = give_bodies(w, bytes, bodies, at, p->gen);
	p->last = a->last;
	return rc;
}

static int
by_gen(const void *a, const void *b)
{
	uint64_t x = (*(struct piece *const *)a)->gen,
		 y = (*(struct piece *const *)b)->gen;

	return x < y ? -1 : x > y;
}

int
arrivals_load(struct arrivals *a, struct pos applied,
	const struct arrivals_found *found, void *arg)
{
	const struct walk w = { applied, found, arg };
	struct piece *order[PIECES];
	size_t n = 0;
	int rc = 0;

	a->last = POS_NONE;
	for (unsigned i = 0; i < PIECES; i++)
		if (a->pieces[i].gen != 0)
			order[n++] = &a->pieces[i];
	qsort(order, n, sizeof(order[0]), by_gen);
	for (size_t i = 0; rc == 0 && i < n; i++) {
		struct piece *p = order[i];
		void *map = mmap(NULL, p->size, PROT_READ, MAP_PRIVATE, p->fd, 0);
		if (map == MAP_FAILED)
			return err_from_errno(errno);
		rc = walk_piece(a, p, map, p->size, &w);
		munmap(map, p->size);
	}
	if (rc == 0)
		arrivals_trim(a, applied);
	return rc;
}

/* Which generation a file is of: that of its first record. */
static uint64_t
gen_of(int fd, uint64_t size)
{
	struct record r = { 0, NULL, 0 };
	size_t at = 0;
	void *map = size == 0 ? MAP_FAILED
			      : mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);

	if (map == MAP_FAILED)
		return 0;
	bool any = next_record(map, size, &at, 0, &r);
	munmap(map, size);
	return any ? r.gen : 0;
}

int
arrivals_open(const char *folder, struct arrivals **out)
{
	struct arrivals *a = calloc(1, sizeof(*a));
	char name[32];
	struct stat st;
	int rc = 0;

	if (a == NULL)
		return ERR_NOMEM;
	buf_init(&a->buf, (size_t)RECORD_MAX * 2);
	for (unsigned i = 0; i < PIECES; i++)
		a->pieces[i].fd = -1;
	if ((a->dir_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		rc = err_from_errno(errno);
	for (unsigned i = 0; rc == 0 && i < PIECES; i++) {
		struct piece *p = &a->pieces[i];
		name_of(a, p, name);
		p->fd = openat(a->dir_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
		if (p->fd < 0 && errno == ENOENT)
			continue;
		if (p->fd < 0 || fstat(p->fd, &st) != 0) {
			rc = err_from_errno(errno);
			break;
		}
		p->size = (uint64_t)st.st_size;
		p->gen = gen_of(p->fd, p->size);
		if (p->gen > a->gen)
			a->gen = p->gen;
	}
	/* A file that was emptied no longer tells which ones it had; what is left behind its
	 * beginning must never fit. */
	if (a->gen < clock_wall_ns() / 1000000)
		a->gen = clock_wall_ns() / 1000000;
	if (rc == 0) {
		*out = a;
		a = NULL;
	}
	arrivals_close(a);
	return rc;
}

void
arrivals_close(struct arrivals *a)
{
	if (a == NULL)
		return;
	for (unsigned i = 0; i < PIECES; i++)
		if (a->pieces[i].fd >= 0)
			close(a->pieces[i].fd);
	if (a->dir_fd >= 0)
		close(a->dir_fd);
	buf_fini(&a->buf);
	free(a);
}

/* ---- writing ---- */

static int
write_at(int fd, const uint8_t *p, size_t n, uint64_t at)
{
	while (n > 0) {
		ssize_t put = pwrite(fd, p, n, (off_t)at);
		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return err_from_errno(put < 0 ? errno : EIO);
		p += put;
		n -= (size_t)put;
		at += (uint64_t)put;
	}
	return 0;
}

/* The next piece: one whose contents nobody needs, else a new file. */
static int
turn_over(struct arrivals *a)
{
	struct piece *p = NULL;
	char name[32];

	for (unsigned i = 0; i < PIECES && p == NULL; i++)
		if (a->pieces[i].fd >= 0 && a->pieces[i].gen == 0)
			p = &a->pieces[i];
	for (unsigned i = 0; i < PIECES && p == NULL; i++)
		if (a->pieces[i].fd < 0)
			p = &a->pieces[i];
	if (p == NULL)
		return a->now != NULL ? 0 : ERR_LIMIT; /* this one grows */
	if (p->fd < 0) {
		name_of(a, p, name);
		p->size = 0;
		p->fd = openat(a->dir_fd, name,
			O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (p->fd < 0 || disk_sync(a->dir_fd, DISK_INBOX) != 0)
			return err_from_errno(errno);
	}
	p->gen = ++a->gen;
	p->last = a->last;
	a->now = p;
	a->at = 0;
	return 0;
}

static int
grow(struct piece *p, uint64_t upto)
{
	static const uint8_t zeros[64 << 10];
	uint64_t goal = upto > p->size ? (upto + GROW - 1) / GROW * GROW : 0;
	int rc = 0;

	while (rc == 0 && p->size < goal) {
		size_t n = goal - p->size < sizeof(zeros) ? (size_t)(goal - p->size)
							  : sizeof(zeros);
		if ((rc = write_at(p->fd, zeros, n, p->size)) == 0)
			p->size += n;
	}
	return rc;
}

static int
write_out(struct arrivals *a)
{
	int rc = buf_ok(&a->buf);

	if (rc == 0 && a->buf.len > 0 && (rc = grow(a->now, a->at + a->buf.len)) == 0 &&
		(rc = write_at(a->now->fd, a->buf.data, a->buf.len, a->at)) == 0) {
		a->at += a->buf.len;
		a->facts.bytes += a->buf.len;
	}
	if (a->buf.cap > 2 * WRITE_FROM)
		buf_fini(&a->buf); /* one large row is no reason to keep so much */
	else
		buf_clear(&a->buf);
	return rc;
}

/* Begins a record; end_record fills in its size and sum. */
static size_t
begin_record(struct arrivals *a)
{
	if (a->failed == 0 && !a->dangling && a->buf.len == 0 &&
		(a->now == NULL || a->at >= PIECE_SIZE))
		a->failed = turn_over(a);
	size_t head = a->buf.len;
	wr_be64(&a->buf, 0);
	wr_be64(&a->buf, a->now != NULL ? a->now->gen : 0);
	return head;
}

static void
end_record(struct arrivals *a, size_t head)
{
	struct buf b = BUF_INIT;

	if (a->failed == 0)
		a->failed = buf_ok(&a->buf);
	if (a->failed != 0) {
		buf_clear(&a->buf);
		return;
	}
	size_t n = a->buf.len - head - HEAD;
	wr_be32(&b, (uint32_t)n);
	wr_be32(&b, hash_crc32(0, a->buf.data + head + 8, 8 + n));
	if ((a->failed = buf_ok(&b)) == 0)
		memcpy(a->buf.data + head, b.data, 8);
	buf_fini(&b);
	if (a->failed == 0 && a->buf.len >= WRITE_FROM)
		a->failed = write_out(a);
}

void
arrivals_body(struct arrivals *a, const uint8_t guid[SHA1_LEN], const void *p, size_t n)
{
	size_t head = begin_record(a);

	wr_u8(&a->buf, 'B');
	buf_put(&a->buf, guid, SHA1_LEN);
	buf_put(&a->buf, p, n);
	a->dangling = true;
	end_record(a, head);
}

void
arrivals_staged(struct arrivals *a, const uint8_t guid[SHA1_LEN])
{
	size_t head = begin_record(a);

	wr_u8(&a->buf, 'S');
	buf_put(&a->buf, guid, SHA1_LEN);
	a->dangling = true;
	end_record(a, head);
}

void
arrivals_row(struct arrivals *a, const struct inbox_item *item)
{
	size_t head = begin_record(a);

	wr_u8(&a->buf, 'R');
	wr_be64(&a->buf, item->pos.epoch);
	wr_be64(&a->buf, item->pos.run);
	wr_be64(&a->buf, item->pos.seq);
	buf_put(&a->buf, item->dir, strlen(item->dir) + 1);
	buf_put(&a->buf, item->bytes, item->n);
	a->dangling = false;
	if (pos_cmp(item->pos, a->last) > 0)
		a->last = item->pos;
	end_record(a, head);
	if (a->now != NULL)
		a->now->last = a->last;
}

int
arrivals_sync(struct arrivals *a)
{
	int rc = a->failed;

	if (rc == 0)
		rc = write_out(a);
	FAULT("arrivals.written");
	if (rc == 0 && a->now != NULL && disk_datasync(a->now->fd, DISK_INBOX) != 0)
		rc = err_from_errno(errno);
	a->facts.syncs++;
	FAULT("arrivals.synced");
	/* What follows a gap would never be read: it goes into another piece. */
	a->failed = 0;
	buf_clear(&a->buf);
	if (rc != 0 && a->now != NULL) {
		a->now = NULL;
		a->dangling = false;
	}
	return rc;
}

void
arrivals_cut(struct arrivals *a)
{
	a->dangling = false;
}

int
arrivals_forget(struct arrivals *a)
{
	static const uint8_t nothing[HEAD];
	int rc = 0;

	for (unsigned i = 0; i < PIECES; i++) {
		struct piece *p = &a->pieces[i];
		if (p->fd < 0 || p->size < HEAD)
			continue;
		int err = write_at(p->fd, nothing, HEAD, 0);
		if (err == 0 && disk_datasync(p->fd, DISK_INBOX) != 0)
			err = err_from_errno(errno);
		if (err == 0)
			p->gen = 0;
		rc = rc != 0 ? rc : err;
	}
	a->now = NULL;
	a->last = POS_NONE;
	a->dangling = false;
	buf_clear(&a->buf);
	return rc;
}

void
arrivals_trim(struct arrivals *a, struct pos pos)
{
	unsigned idle = 0;
	char name[32];

	for (unsigned i = 0; i < PIECES; i++) {
		struct piece *p = &a->pieces[i];
		if (p->fd < 0)
			continue;
		if (p != a->now && p->gen != 0 && pos_cmp(p->last, pos) <= 0)
			p->gen = 0;
		if (p->gen != 0 || ++idle <= KEEP_FREE)
			continue;
		name_of(a, p, name);
		(void)unlinkat(a->dir_fd, name, 0);
		close(p->fd);
		p->fd = -1;
	}
}

void
arrivals_facts(const struct arrivals *a, struct arrivals_facts *out)
{
	*out = a->facts;
	for (unsigned i = 0; i < PIECES; i++) {
		if (a->pieces[i].fd < 0)
			continue;
		out->pieces++;
		out->size += a->pieces[i].size;
	}
}
