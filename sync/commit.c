/*
 * From a commit to a batch in the out queue, on the thread that saw the commit.
 *
 * The entry lock is held from reading the files to the push, so the batches of one mailbox are
 * queued in the order of its commits and each one's "before" is the last one's "after". The peer
 * thread is never waited for.
 *
 * A mailbox that cannot be stated (damage, a body that is not what its record says) is set
 * aside: its state stays where it was, nothing of it leaves, and every later commit tries again
 * by deriving, so that a repair by the administrator heals it without another command.
 */
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/fault.h"
#include "meta/base/log.h"
#include "meta/header.h"
#include "meta/place.h"
#include "meta/scan.h"
#include "meta/spool.h"
#include "sync/node.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* With its cache records such a batch stays below BATCH_MAX. */
#define PIECE_RECORDS 100000

/* The number of an inode that went is the next new one's at once. */
static bool
is_inode(struct node *n, const char *dir, uint32_t uid, uint64_t ino)
{
	char name[SCAN_BODY_NAME];
	struct stat st;

	return spool_stat(n->spool, dir, scan_body_name(uid, name), &st) == 0 &&
	       st.st_ino == ino;
}

bool
node_ref_in(struct node *n, struct refs *refs, const char *dir, uint32_t uid,
	uint64_t ino, char *ref_dir, uint32_t *ref_uid)
{
	bool known = refs_get(refs, ino, ref_dir, BATCH_MAX_PATH, ref_uid) &&
		     (strcmp(ref_dir, dir) != 0 || *ref_uid != uid) &&
		     is_inode(n, ref_dir, *ref_uid, ino);

	/* From now on this one can be named, too; the older name may go first. */
	refs_put(refs, ino, dir, uid);
	return known;
}

/* Where the body of (dir, uid) may already be known to the peers; an mbox_ref_fn. */
static bool
body_ref(void *arg, const char *dir, uint32_t uid, uint64_t ino, char *ref_dir,
	uint32_t *ref_uid)
{
	struct node *n = arg;

	return node_ref_in(n, n->refs, dir, uid, ino, ref_dir, ref_uid);
}

void
sync_linked(struct sync *s, uint64_t ino, const char *dir, uint32_t uid)
{
	refs_put(s->node.refs, ino, dir, uid);
}

int
node_enqueue(struct node *n, struct mboxent *e, struct batch *b, uint64_t noted,
	sync_done_fn *done, void *done_arg)
{
	struct outq_item *it = outq_item(e->dir);
	int rc = ERR_NOMEM;

	if (it == NULL)
		return rc;
	it->done = done;
	it->done_arg = done_arg;
	it->note = strdup(mboxes_is_path(e->dir) ? e->dir + 1 : e->dir);
	it->noted = it->note != NULL ? noted : 0;
	snprintf(it->uniqueid, sizeof(it->uniqueid), "%s", mboxes_id(e));
	it->bytes.max = BATCH_MAX;
	if ((rc = batch_encode(b, &it->bytes)) != 0)
		goto out;
	it->what = e->known ? OUTQ_STATE_PUT : OUTQ_STATE_DROP;
	if (e->known && (rc = mboxes_encode(e, &it->state)) != 0)
		goto out;
	mboxes_identify(n->mboxes, e);
	outq_push(n->outq, it);
	return 0;
out:
	outq_item_free(it);
	return rc;
}

void
node_set_aside(
	struct node *n, struct mboxent *e, const struct mbox_fault *fault, int code)
{
	struct outq_item *it;

	if (!e->aside)
		log_err("mailbox set aside: dir=%s uid=%" PRIu32 " check=%s: %s",
			e->dir, fault->uid,
			fault->check[0] ? fault->check : err_text(code),
			fault->text[0] ? fault->text : err_text(code));
	e->aside = true;
	if ((it = outq_item(e->dir)) == NULL)
		return;
	it->aside = true;
	it->what = OUTQ_STATE_NONE;
	it->fault = *fault;
	if (it->fault.check[0] == '\0')
		snprintf(it->fault.check, sizeof(it->fault.check), "%s", "unreadable");
	if (it->fault.text[0] == '\0')
		snprintf(it->fault.text, sizeof(it->fault.text), "%s", err_text(code));
	outq_push(n->outq, it);
}

void
node_enqueue_nothing(struct node *n, const char *key, const char *note, uint64_t noted,
	sync_done_fn *done, void *done_arg)
{
	struct outq_item *it = outq_item(key);

	if (it == NULL) {
		if (done != NULL)
			done(done_arg);
		return;
	}
	it->what = OUTQ_STATE_NONE;
	it->done = done;
	it->done_arg = done_arg;
	if (note != NULL && (it->note = strdup(note)) != NULL)
		it->noted = noted;
	outq_push(n->outq, it);
}

/* Text for conditions that pass by themselves: a database between two of its writes. */
static bool
is_passing(int rc)
{
	return rc == ERR_BUSY || rc == ERR_NOMEM;
}

static bool
index_stat(struct node *n, const char *dir, struct stat *st)
{
	int fd;

	if (spool_file(n->spool, dir, "cyrus.index", O_PATH, 0, &fd) != 0)
		return false;
	bool there = fstat(fd, st) == 0 && S_ISREG(st->st_mode);
	close(fd);
	return there;
}

/* Cyrus makes it empty before it writes the header. One that stays so is no mailbox yet, and the
 * note of its making stays as well. */
bool
node_index_is_empty(struct node *n, const char *dir)
{
	struct stat st;

	return index_stat(n, dir, &st) && st.st_size == 0;
}

/* A rename in the layout by name makes the new mailbox like any other, then copies the old one's
 * index over its own, and only then links the messages. */
static bool
index_is_new(struct node *n, const struct mboxent *e)
{
	struct stat st;

	return !e->known ||
	       (index_stat(n, e->dir, &st) && st.st_ino != e->state->index_ino);
}

/* A directory that is new but whose id is known is a rename (F7.3): bodies and cache records are
 * taken from the other one at the peer. NULL: there is none. */
static const char *
twin_of(struct node *n, const struct mboxent *e)
{
	struct buf file = BUF_INIT;
	struct mboxent *twin = NULL;
	struct header h;

	if (!e->known &&
		spool_read(n->spool, e->dir, "cyrus.header", HEADER_MAX_FILE, &file,
			NULL) == 0 &&
		header_decode(file.data, file.len, &h) == 0) {
		if (h.uniqueid[0] != '\0')
			twin = mboxes_twin(n->mboxes, h.uniqueid, e->dir);
		header_fini(&h);
	}
	buf_fini(&file);
	return twin != NULL ? twin->dir : NULL;
}

/* The batches that go before the last one of a commit that is too large for one. */
struct pieces {
	struct outq_item *first, **end;
};

static void
pieces_drop(struct pieces *p)
{
	for (struct outq_item *it = p->first, *next; it != NULL; it = next) {
		next = it->next;
		outq_item_free(it);
	}
	*p = (struct pieces){ NULL, &p->first };
}

static void
pieces_push(struct node *n, struct pieces *p)
{
	for (struct outq_item *it = p->first, *next; it != NULL; it = next) {
		next = it->next;
		it->next = NULL;
		outq_push(n->outq, it);
	}
	*p = (struct pieces){ NULL, &p->first };
}

static int
pieces_add(struct pieces *p, const char *dir, const struct batch *b)
{
	struct outq_item *it = outq_item(dir);
	int rc = ERR_NOMEM;

	if (it != NULL) {
		/* What is stored of the mailbox changes with the last one: a crash in
		 * between, and it is derived again. */
		it->what = OUTQ_STATE_NONE;
		snprintf(it->uniqueid, sizeof(it->uniqueid), "%s", b->uniqueid);
		it->bytes.max = BATCH_MAX;
		rc = batch_encode(b, &it->bytes);
	}
	if (rc != 0) {
		outq_item_free(it);
		return rc;
	}
	*p->end = it;
	p->end = &it->next;
	return 0;
}

/* All of the mailbox, cut. What the peer has of it beyond that does not fit the sum behind the
 * last piece, and is compared. */
static int
in_pieces(struct node *n, const struct mbox_delta *d, struct pieces *p, struct batch *b,
	struct mbox_state *after, struct mbox_fault *fault)
{
	uint32_t next = 0;
	int rc;

	for (;;) {
		rc = mbox_piece(n->spool, d, next, b, after, &next, fault);
		if (rc != 0 || next == 0)
			return rc;
		rc = pieces_add(p, d->dir, b);
		batch_fini(b);
		if (rc != 0)
			return rc;
	}
}

static int
delta_of(struct node *n, struct mboxent *e, const struct sync_commit *c,
	struct pieces *p, struct batch *b, struct mbox_state *after,
	struct mbox_fault *fault)
{
	struct mbox_delta d = {
		.dir = e->dir,
		.before = e->known ? e->state : NULL,
		.touched = c->touched,
		.n_touched = c->n_touched,
		.derive = c->derive || !e->known || e->aside,
		.annots = c->annots,
		.names = c->names,
		.locked = c->locked && c->patient,
		.from_dir = twin_of(n, e),
		.limit = n->conf.piece != 0 ? n->conf.piece : PIECE_RECORDS,
		.ref = body_ref,
		.ref_arg = n,
	};

	if (!e->known)
		d.whole = true;
	memset(fault, 0, sizeof(*fault));
	pieces_drop(p);
	int rc = mbox_delta(n->spool, &d, c->old_index, c->old_size, b, after, fault);
	if (rc == ERR_LIMIT)
		rc = in_pieces(n, &d, p, b, after, fault);
	if (!c->patient)
		return rc;
	bool odd = rc != 0 ? rc != ERR_NOTFOUND : fault->check[0] != '\0';
	if (rc != 0 && odd && index_is_new(n, e))
		return ERR_BUSY;
	if (c->disturbed != NULL && c->disturbed(c->done_arg, odd && d.derive))
		return ERR_BUSY;
	return rc;
}

/* Moved or removed while it was read: what was found there says nothing. */
bool
node_is_gone(struct node *n, const char *dir)
{
	struct stat st;

	return spool_stat(n->spool, dir, NULL, &st) == ERR_NOTFOUND;
}

int
sync_commit(struct sync *s, const struct sync_commit *c)
{
	struct node *n = &s->node;
	struct mboxent *e = mboxes_get(n->mboxes, c->dir);
	struct mbox_fault fault = { 0 };
	struct mbox_state after;
	struct sync_commit again = *c;
	struct pieces pieces = { NULL, &pieces.first };
	unsigned kinds = SYNC_ALL_KINDS;
	struct batch b;
	int rc = ERR_NOMEM;

	batch_init(&b);
	if (c->kinds_out != NULL)
		*c->kinds_out = kinds;
	if (e == NULL) {
		log_err("out of memory; a commit is derived at the next start: dir=%s",
			c->dir);
		node_enqueue_nothing(n, c->dir, NULL, 0, c->done, c->done_arg);
		return 0;
	}
	pthread_mutex_lock(&e->lock);
	/* What is noted from here on, this commit may not have seen. */
	uint64_t noted = notes_mark(n->notes, e->dir);
	for (unsigned tries = 0; tries < 20; tries++) {
		rc = !e->known && node_index_is_empty(n, e->dir)
			     ? ERR_NOTFOUND
			     : delta_of(n, e, &again, &pieces, &b, &after, &fault);
		if (!is_passing(rc) || (c->patient && rc == ERR_BUSY))
			break;
		if (c->ticket != 0 && moving_ticket(n->moving) != c->ticket)
			break;
		batch_fini(&b);
		batch_init(&b);
		usleep(5000);
		again.derive = true;
	}
	if (rc != 0 && rc != ERR_NOTFOUND && rc != ERR_BUSY && !again.derive) {
		/* What was noted may not be the whole truth; the file is. */
		batch_fini(&b);
		batch_init(&b);
		again.derive = true;
		again.annots = true;
		rc = delta_of(n, e, &again, &pieces, &b, &after, &fault);
	}
	if (rc == ERR_BUSY && c->patient) {
		pthread_mutex_unlock(&e->lock);
		pieces_drop(&pieces);
		batch_fini(&b);
		return ERR_BUSY;
	}
	if (rc == 0 && fault.check[0] != '\0')
		log_warn("%s: dir=%s check=%s", fault.text, e->dir, fault.check);
	FAULT("commit.made");
	if (c->ticket != 0 && !moving_enter(n->moving, c->ticket, c->dir)) {
		pthread_mutex_unlock(&e->lock);
		pieces_drop(&pieces);
		batch_fini(&b);
		return ERR_NOTFOUND;
	}
	if (rc != 0 && node_is_gone(n, e->dir))
		rc = ERR_NOTFOUND;
	if (rc == ERR_NOTFOUND) {
		node_enqueue_nothing(n, e->dir, NULL, 0, c->done, c->done_arg);
	} else if (rc != 0) {
		node_set_aside(n, e, &fault, rc);
		node_enqueue_nothing(n, e->dir, NULL, 0, c->done, c->done_arg);
	} else {
		if (pieces.first == NULL)
			kinds = confirm_kinds(&b);
		bool gone = (b.flags & BATCH_REMOVE) != 0;
		bool was_aside = e->aside;
		struct mbox_state old = *e->state;
		bool old_known = e->known;
		*e->state = after;
		e->known = !gone;
		e->aside = false;
		pieces_push(n, &pieces);
		if ((rc = node_enqueue(n, e, &b, noted, c->done, c->done_arg)) != 0) {
			*e->state = old;
			e->known = old_known;
			log_err("a commit could not be journaled: dir=%s: %s", e->dir,
				err_text(rc));
			snprintf(fault.text, sizeof(fault.text), "%s", err_text(rc));
			node_set_aside(n, e, &fault, rc);
			node_enqueue_nothing(n, e->dir, NULL, 0, c->done, c->done_arg);
		} else if (was_aside) {
			log_info("mailbox is sound again: dir=%s", e->dir);
		}
	}
	if (c->ticket != 0)
		moving_leave(n->moving);
	pthread_mutex_unlock(&e->lock);
	pieces_drop(&pieces);
	batch_fini(&b);
	if (c->kinds_out != NULL)
		*c->kinds_out = kinds;
	return 0;
}

/* ---- questions of capture ---- */

bool
sync_index_moved(
	struct sync *s, const char *dir, uint64_t ino, uint64_t size, uint64_t mtime)
{
	struct mboxent *e = mboxes_find(s->node.mboxes, dir);
	bool moved = true;

	if (e == NULL)
		return true;
	/* A commit under way holds the lock, and will state what is there. */
	if (pthread_mutex_trylock(&e->lock) != 0)
		return false;
	if (e->known)
		moved = e->state->index_ino != ino || e->state->index_size != size ||
			e->state->index_mtime != mtime;
	if (e->aside)
		moved = false;
	pthread_mutex_unlock(&e->lock);
	return moved;
}

/* The GUID of a committed record, straight from the index: a repack unlinks thousands in a row,
 * so only the records on the way are read. */
static bool
guid_of(struct node *n, const char *dir, uint32_t uid, uint8_t guid[SHA1_LEN])
{
	uint8_t raw[INDEX_MAX_HEADER];
	struct index_header h;
	struct index_record r;
	bool found = false;
	ssize_t got;
	int fd;

	if (spool_file(n->spool, dir, "cyrus.index", O_RDONLY, 0, &fd) != 0)
		return false;
	got = pread(fd, raw, sizeof(raw), 0);
	if (got <= 0 || index_header_decode(raw, (size_t)got, &h) != 0)
		goto out;
	for (uint32_t lo = 0, hi = h.num_records; lo < hi;) {
		uint32_t mid = lo + (hi - lo) / 2;
		off_t at = (off_t)h.start_offset + (off_t)mid * h.record_size;
		if (pread(fd, raw, h.record_size, at) != (ssize_t)h.record_size ||
			index_record_decode(h.minor_version, raw, &r) != 0)
			goto out;
		if (r.uid == uid) {
			memcpy(guid, r.guid, SHA1_LEN);
			found = true;
			break;
		}
		if (r.uid < uid)
			lo = mid + 1;
		else
			hi = mid;
	}
out:
	close(fd);
	return found;
}

static bool
hash_body(struct node *n, const char *dir, const char *name, uint8_t guid[SHA1_LEN])
{
	uint64_t size;
	int fd;

	if (spool_file(n->spool, dir, name, O_RDONLY, 0, &fd) != 0)
		return false;
	bool done = hash_sha1_fd(fd, guid, &size) == 0;
	close(fd);
	return done;
}

void
sync_keep_body(struct sync *s, const char *dir, uint32_t uid)
{
	struct node *n = &s->node;
	struct mboxent *e = mboxes_find(n->mboxes, dir);
	uint8_t guid[SHA1_LEN];
	char name[SCAN_BODY_NAME];

	if (n->n_peers == 0 || e == NULL)
		return;
	uint64_t queued = outq_last(n->outq) - outq_settled_upto(n->outq);
	uint64_t last = n->journal_last;
	/* Nothing is kept for a peer that lost its place: it compares what is there then. */
	if (n->confirmed == UINT64_MAX || (n->confirmed >= last && queued == 0))
		return;
	/* Never counted: a failed append takes its file back. Of a mailbox whose removal was
	 * committed the state says nothing any more, and all its bodies go now. */
	if (e->known && uid > e->state->header.last_uid)
		return;
	scan_body_name(uid, name);
	/* When Cyrus deletes a mailbox, its files go in any order, the index perhaps first. */
	if (!guid_of(n, dir, uid, guid) && (e->known || !hash_body(n, dir, name, guid)))
		return;
	int rc = kept_add(n->kept, guid, dir, name, last + queued);
	if (rc != 0 && rc != ERR_NOTFOUND)
		log_warn("a body could not be kept for a peer: dir=%s uid=%" PRIu32
			 ": %s",
			dir, uid, err_text(rc));
}
