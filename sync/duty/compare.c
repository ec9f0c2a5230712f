/*
 * compare.c - finding what differs without a common position, and curing it.
 *
 * The active side lists the sum of every mailbox (SUMS). The standby answers each that is not
 * equal with the digests of its records (RECORDS), also without being asked when a batch did not
 * fit; names each that it has and the list did not; and says when it is through (DIFF). For each
 * RECORDS the active makes a derived batch that names only what differs, and journals it like
 * any other: there is no second way onto the peer's disk. Between the digests and the batch the
 * mailbox may move on either side: the batch states results, so the order does not matter.
 *
 * A mailbox that only the standby has is removed there if we journaled its removal, else it is
 * set aside there: absence is never read as deletion. So is one that holds a UID, a message or a
 * change that we never had or have lost; it stays so until somebody has saved what is in it and
 * removed it there, whatever becomes of ours. A peer that is beyond our journal may hold any such
 * thing, so of its mailboxes nothing is purged that was not expunged there.
 */
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "meta/spool.h"
#include "sync/node.h"
#include "sync/replay.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	SUMS_PAGE = 200,
	REPAIR_RECORDS = 500, /* named in one batch */
	REPAIR_AHEAD = 16, /* rows journaled and not yet sent, at most */
	REPAIR_BYTES = 2 << 20, /* of messages in them, about; and in one batch */
	REPAIR_BYTES_LEAST = 128 << 10,
	REPAIR_PARTS = 2, /* of a second, under a rate */
	DIGESTS_MAX = 12000000, /* of one mailbox: no index has more records */
	DIGESTS_EACH = 32, /* a mailbox without any counts as so many */
	LEAVING_MS = 3000,
	UNSOUND_MS = 500,
	AGAIN_MS = 50,
	DIGESTS_HELD = (64 << 20) / sizeof(struct mbox_digest) /* of all that wait; then
								 * nothing more is read */
};

void
compare_start(struct peer *p)
{
	compare_stop(p);
	p->sums_moves = p->node->moves_ended;
	if (p->node->moves_begun != p->sums_moves)
		p->sums_moves = 0; /* some are under way: all are looked at again */
	p->sums = mboxes_list(p->node->mboxes, &p->n_sums);
	p->sums_at = 0;
	p->sums_sent = p->diff_done = false;
	p->repaired = p->to_repair = p->repaired_messages = p->repaired_bytes = 0;
	p->repair_began_ms = clock_ms();
	p->ahead_bytes = 0;
	p->comparing = true;
	if (refs_open(&p->refs) != 0)
		p->refs = NULL; /* then every link is sent as a body */
}

/* A peer that leaves in the middle of it is compared when it is back. */
void
compare_again(struct peer *p)
{
	struct wire_start m = { p->epoch, p->run, p->next, WIRE_MODE_COMPARE };
	struct node *n = p->node;

	p->cursor.state = JOURNAL_PEER_COMPARING;
	if (journal_peer_set(n->journal, &p->cursor) != 0 ||
		session_send(p->session, WIRE_START, &m) != 0)
		return;
	compare_start(p);
	compare_pump(p);
	node_publish(n);
}

static void
repair_free(struct repair *r)
{
	if (r == NULL)
		return;
	free(r->dir);
	free(r->digests);
	free(r);
}

/* What a live change may find before it, in bytes of messages. */
static uint64_t
ahead_most(const struct node *n)
{
	uint64_t most = n->conf.rate / REPAIR_PARTS;

	if (most == 0 || most > REPAIR_BYTES)
		return REPAIR_BYTES;
	return most > REPAIR_BYTES_LEAST ? most : REPAIR_BYTES_LEAST;
}

/* How many records of that mailbox have about so many bytes. */
static size_t
piece_records(const struct node *n, const struct mboxent *e)
{
	const struct index_header *h = &e->state->header;
	uint64_t each = h->exists > 0 ? h->quota_mailbox_used / h->exists : 0;
	uint64_t most = each > 0 ? ahead_most(n) / each : REPAIR_RECORDS;

	return most == 0 ? 1 : most < REPAIR_RECORDS ? (size_t)most : REPAIR_RECORDS;
}

void
compare_stop(struct peer *p)
{
	free(p->sums);
	p->sums = NULL;
	p->n_sums = p->sums_at = 0;
	while (p->repairs != NULL) {
		struct repair *r = p->repairs;
		p->repairs = r->next;
		repair_free(r);
	}
	p->repairs_end = &p->repairs;
	repair_free(p->filling);
	p->filling = NULL;
	p->digests_held = 0;
	p->comparing = false;
	refs_close(p->refs);
	p->refs = NULL;
}

static const char *
fork_key(const struct peer *p, char *key, size_t size)
{
	snprintf(key, size, "forked %s", p->conf->name);
	return key;
}

/* On disk until the comparison is through: cut off, it begins again as that of a peer which only
 * lacks something. It is through when the peer has on disk what it was told to set aside. */
void
compare_fork(struct peer *p, bool beyond)
{
	struct store *s = p->node->store;
	char key[SYNC_NAME_MAX + 16];
	uint64_t was = 0;

	fork_key(p, key, sizeof(key));
	p->forked = beyond || (store_get_u64(s, key, &was) == 0 && was != 0);
	p->fork_told = false;
	if (beyond && store_put_u64(s, key, 1) != 0)
		log_warn("cannot remember that a peer is beyond the journal: peer=%s",
			p->conf->name);
}

static void
compare_joined(struct peer *p)
{
	char key[SYNC_NAME_MAX + 16];

	if (p->forked && store_del(p->node->store, fork_key(p, key, sizeof(key))) == 0)
		p->forked = false;
}

/* A folder that was moved before its old name was listed is on the list under neither. Those that
 * came by a move meanwhile are listed, too. False: a move is under way, its entries are in between. */
static bool
add_moved(struct peer *p)
{
	struct node *n = p->node;
	uint64_t ended = n->moves_ended;
	size_t count, kept = 0;
	struct mboxent **list;

	if (n->moves_begun != ended)
		return false;
	if (ended == p->sums_moves)
		return true;
	if ((list = mboxes_list(n->mboxes, &count)) == NULL)
		return false;
	for (size_t i = 0; i < count; i++) {
		pthread_mutex_lock(&list[i]->lock);
		bool late = list[i]->moved > p->sums_moves;
		pthread_mutex_unlock(&list[i]->lock);
		if (late)
			list[kept++] = list[i];
	}
	free(p->sums);
	p->sums = list;
	p->n_sums = kept;
	p->sums_at = 0;
	p->sums_moves = ended;
	return true;
}

static void
send_sums(struct peer *p)
{
	struct wire_sum items[SUMS_PAGE];
	char ids[SUMS_PAGE][64];
	struct wire_sums m = { { items, 0 }, false };

	if (p->sums_at == p->n_sums && !add_moved(p))
		return;
	size_t from = p->sums_at;
	while (p->sums_at < p->n_sums && m.list.n < SUMS_PAGE) {
		struct mboxent *e = p->sums[p->sums_at++];
		pthread_mutex_lock(&e->lock);
		if (e->known && !e->aside) {
			struct wire_sum *w = &items[m.list.n];
			snprintf(ids[m.list.n], sizeof(ids[0]), "%s", mboxes_id(e));
			w->dir = e->dir;
			w->uniqueid = ids[m.list.n];
			sum_put(mboxes_sum(e), w->sum);
			m.list.n++;
		}
		pthread_mutex_unlock(&e->lock);
	}
	m.last = p->sums_at == p->n_sums && p->node->moves_begun == p->sums_moves;
	if (m.list.n == 0 && !m.last)
		return;
	if (session_send(p->session, WIRE_SUMS, &m) != 0) {
		p->sums_at = from;
		return;
	}
	if (m.last)
		p->sums_sent = true;
}

/* It was told all that it is to set aside, and notes each on disk before it reads on. So it is asked
 * once more, with a list of nothing: its answer comes from behind that. False: it must answer first. */
static bool
is_noted_there(struct peer *p)
{
	if (!p->forked || p->fork_told)
		return true;
	p->fork_told = true;
	p->sums_sent = p->diff_done = false;
	send_sums(p);
	return false;
}

void
compare_one(struct node *n, const char *dir)
{
	struct mboxent *e = mboxes_find(n->mboxes, dir);
	struct wire_sum item;
	char id[64];
	struct wire_sums m = { { &item, 1 }, false };

	if (e == NULL)
		return;
	pthread_mutex_lock(&e->lock);
	snprintf(id, sizeof(id), "%s", mboxes_id(e));
	item.dir = e->dir;
	item.uniqueid = id;
	sum_put(mboxes_sum(e), item.sum);
	bool known = e->known;
	pthread_mutex_unlock(&e->lock);
	for (unsigned i = 0; known && i < n->n_peers; i++)
		if (n->peers[i].sending && n->peers[i].session != NULL)
			session_send(n->peers[i].session, WIRE_SUMS, &m);
}

/* Tells the standby that one of its mailboxes cannot be cured from here. */
static void
refuse(struct peer *p, const char *dir, uint32_t uid, const char *check,
	const char *text)
{
	struct wire_quarantine m = { dir, uid, check, text };

	log_warn("the peer's mailbox cannot be made equal: peer=%s dir=%s uid=%" PRIu32
		 " check=%s: %s",
		p->conf->name, dir, uid, check, text);
	node_note_error(p, "%s is to set %s aside: uid=%" PRIu32 " check=%s: %s",
		p->conf->name, dir, uid, check, text);
	session_send(p->session, WIRE_QUARANTINE, &m);
}

/* Nothing is to be done, or can be from here, for what the peer asked. */
static void
nothing(struct peer *p, const char *dir)
{
	struct wire_dir d = { dir };
	struct wire_diff m = { { &d, 1 }, false };

	session_send(p->session, WIRE_DIFF, &m);
}

/* A mailbox or path that only the peer has. */
static void
repair_extra(struct peer *p, const struct repair *r)
{
	struct node *n = p->node;
	struct mboxent *e;
	struct batch b;

	if (!r->present) {
		nothing(p, r->dir);
		return;
	}
	if (store_tomb_get(n->store, r->dir, r->uniqueid, NULL) != 0) {
		refuse(p, r->dir, 0, "unknown-here",
			"the active side has no such mailbox and never removed one; "
			"compare the "
			"two by hand, then remove it here or copy it there");
		return;
	}
	/* Not before: a peer may name what it likes, and an entry stays. */
	if ((e = mboxes_get(n->mboxes, r->dir)) == NULL) {
		nothing(p, r->dir);
		return;
	}
	batch_init(&b);
	pthread_mutex_lock(&e->lock);
	int rc = 0;
	if (!e->known && mboxes_is_path(e->dir)) {
		struct change *c = batch_add(&b, CHANGE_DELETE);
		if (c != NULL)
			c->u.path.path = e->dir + 1;
		rc = c != NULL ? node_enqueue(n, e, &b, 0, NULL, NULL) : ERR_NOMEM;
	} else if (!e->known) {
		b.flags = BATCH_REMOVE | BATCH_DERIVED;
		b.dir = e->dir;
		b.uniqueid = r->uniqueid;
		rc = node_enqueue(n, e, &b, 0, NULL, NULL);
	}
	pthread_mutex_unlock(&e->lock);
	b.dir = b.uniqueid = "";
	batch_fini(&b);
	if (rc != 0)
		log_err("a removal could not be journaled: dir=%s: %s", r->dir,
			err_text(rc));
}

/* Does the peer hold what we never had, or lost? It is not ours to delete (design 7). Before the
 * first piece is made: a mailbox that is set aside stays as it was. Entry lock held. ERR_MORE. */
static int
has_more(struct peer *p, const struct repair *r, const struct mboxent *e,
	struct mbox_fault *fault)
{
	struct node *n = p->node;

	if (!r->present || r->from_uid > 0)
		return 0;
	snprintf(fault->check, sizeof(fault->check), "has-more");
	if (r->uniqueid[0] != '\0' && strcmp(r->uniqueid, e->state->uniqueid) != 0) {
		if (store_tomb_get(n->store, r->dir, r->uniqueid, NULL) == 0)
			return 0;
		snprintf(fault->text, sizeof(fault->text),
			"the standby has another mailbox in this folder, and the "
			"active side "
			"never removed that one; save its messages, then remove it "
			"from the "
			"standby's spool");
		return ERR_MORE;
	}
	int rc = mbox_lacks(n->spool, r->dir, r->digests, r->n, p->forked, fault);
	if (rc != 0 || r->highestmodseq <= e->state->header.highestmodseq)
		return rc;
	snprintf(fault->text, sizeof(fault->text),
		"the standby holds changes that the active side lost; nothing is "
		"undone: "
		"compare the two by hand, then remove the mailbox from the standby's "
		"spool");
	return ERR_MORE;
}

/* A peer that is compared may lack any message: only what this comparison has sent before can be
 * named instead of its bytes. */
static bool
repair_ref(void *arg, const char *dir, uint32_t uid, uint64_t ino, char *ref_dir,
	uint32_t *ref_uid)
{
	struct peer *p = arg;

	return p->refs != NULL &&
	       node_ref_in(p->node, p->refs, dir, uid, ino, ref_dir, ref_uid);
}

/* It is not sound here. What makes it a mailbox is gone: then rm -r is at it, and about to say so. Or
 * its writer is between two writes. It is given a while. */
static bool
may_settle(struct node *n, struct repair *r)
{
	uint64_t now = clock_ms(), most = UNSOUND_MS;
	struct stat st;

	if (node_is_gone(n, r->dir))
		return false;
	if (spool_stat(n->spool, r->dir, "cyrus.index", &st) == ERR_NOTFOUND ||
		spool_stat(n->spool, r->dir, "cyrus.header", &st) == ERR_NOTFOUND)
		most = LEAVING_MS;
	if (r->unsound_ms == 0)
		r->unsound_ms = now;
	r->again_ms = now + AGAIN_MS;
	return now - r->unsound_ms < most;
}

/* One piece of a mailbox. True when it is through. */
static bool
repair_mailbox(struct peer *p, struct repair *r, struct mboxent *e)
{
	struct node *n = p->node;
	struct mbox_fault fault = { 0 };
	struct mbox_state after;
	struct batch b;
	uint32_t next = 0;
	bool through = true;
	int rc;

	if (r->again_ms > clock_ms())
		return false;
	batch_init(&b);
	uint64_t names = moving_ticket(n->moving);
	pthread_mutex_lock(&e->lock);
	if (!e->known) {
		/* Removed while we waited for the lock, and no state is left to compare with. */
		pthread_mutex_unlock(&e->lock);
		batch_fini(&b);
		return false;
	}
	if ((rc = has_more(p, r, e, &fault)) == ERR_MORE) {
		pthread_mutex_unlock(&e->lock);
		refuse(p, r->dir, fault.uid, fault.check, fault.text);
		goto out;
	}
	memset(&fault, 0, sizeof(fault));
	rc = mbox_repair(n->spool, r->dir, e->state, r->digests, r->n, r->from_uid,
		piece_records(n, e), repair_ref, p, &b, &after, &next, &fault);
	if (!moving_enter(n->moving, names, r->dir)) {
		pthread_mutex_unlock(&e->lock);
		batch_fini(&b);
		return false;
	}
	if (rc == 0) {
		for (size_t i = 0; i < b.n; i++)
			if (b.changes[i].kind == CHANGE_RECORD) {
				p->repaired_messages++;
				p->repaired_bytes += b.changes[i].u.record.r.size;
				p->ahead_bytes += b.changes[i].u.record.r.size;
			}
		/* What is not journaled of our own yet comes with this, in the same order. */
		if ((b.flags & BATCH_PARTIAL) == 0)
			*e->state = after;
		rc = node_enqueue(n, e, &b, 0, NULL, NULL);
		through = (b.flags & BATCH_PARTIAL) == 0;
		r->from_uid = next;
	}
	if (rc == ERR_BUSY) {
		through = false;
	} else if (rc != 0 && may_settle(n, r)) {
		through = false;
	} else if (rc != 0) {
		if (rc != ERR_NOTFOUND && !node_is_gone(n, r->dir))
			node_set_aside(n, e, &fault, rc);
		nothing(p, r->dir);
	}
	moving_leave(n->moving);
	pthread_mutex_unlock(&e->lock);
out:
	batch_fini(&b);
	return through;
}

static void
repair_next(struct peer *p)
{
	struct node *n = p->node;
	struct repair *r = p->repairs;
	struct mboxent *e = mboxes_find(n->mboxes, r->dir);

	if (e == NULL || !e->known) {
		/* Its removal may be on its way into the journal, where the tombstone is made. */
		if (store_tomb_get(n->store, r->dir, r->uniqueid, NULL) != 0 &&
			outq_last(n->outq) != outq_settled_upto(n->outq))
			return;
		repair_extra(p, r);
	} else if (mboxes_is_path(r->dir)) {
		pthread_mutex_lock(&e->lock);
		e->known = false; /* so that it is stated, changed or not */
		pthread_mutex_unlock(&e->lock);
		/* Moved meanwhile: it is asked for under its new name. */
		node_path_now(n, r->dir + 1, moving_ticket(n->moving), NULL, NULL);
		nothing(p, r->dir);
	} else if (e->aside) {
		nothing(p, r->dir);
	} else if (!repair_mailbox(p, r, e)) {
		if (r->again_ms != 0 && r->next != NULL) {
			/* The others need not wait for it. */
			p->repairs = r->next;
			r->next = NULL;
			*p->repairs_end = r;
			p->repairs_end = &r->next;
		}
		return;
	}
	p->repaired++;
	p->repairs = r->next;
	p->digests_held -= r->n + DIGESTS_EACH;
	if (p->repairs == NULL)
		p->repairs_end = &p->repairs;
	repair_free(r);
}

void
compare_pump(struct peer *p)
{
	struct node *n = p->node;

	while (p->comparing && !p->sums_sent && !session_full(p->session)) {
		size_t before = p->sums_at;
		send_sums(p);
		if (!p->sums_sent && p->sums_at == before)
			break;
	}
	/* Not far ahead of what was sent: the journal is no place for a whole spool, and what
	 * happens just now goes behind it. */
	if (p->sent == n->journal_last &&
		outq_last(n->outq) == outq_settled_upto(n->outq))
		p->ahead_bytes = 0;
	for (unsigned i = 0;
		i < REPAIR_AHEAD && p->repairs != NULL &&
		p->ahead_bytes < ahead_most(n) &&
		n->journal_last - p->sent < REPAIR_AHEAD &&
		outq_last(n->outq) - outq_settled_upto(n->outq) < REPAIR_AHEAD;
		i++)
		repair_next(p);
	if (p->comparing && p->sums_sent && p->diff_done && p->repairs == NULL &&
		p->filling == NULL &&
		outq_last(n->outq) == outq_settled_upto(n->outq) && is_noted_there(p)) {
		p->comparing = false;
		refs_close(p->refs);
		p->refs = NULL;
		compare_joined(p);
		p->cursor.state = JOURNAL_PEER_STREAMING;
		journal_peer_set(n->journal, &p->cursor);
		confirm_compared(p);
		p->compared_at = n->journal_last;
		log_info("peer is compared: peer=%s mailboxes=%" PRIu64
			 " messages=%" PRIu64 " bytes=%" PRIu64 " ms=%" PRIu64,
			p->conf->name, p->repaired, p->repaired_messages,
			p->repaired_bytes, clock_ms() - p->repair_began_ms);
		node_publish(n);
	}
}

/* Only while a whole one waits: that goes on without anything being read, and when it is through
 * the loop turns. */
bool
compare_no_room(struct peer *p)
{
	return p->repairs != NULL && p->digests_held > DIGESTS_HELD;
}

int
compare_on_records(void *node, struct session *s, const void *msg)
{
	struct node *n = node;
	struct peer *p = duty_peer(n, s);
	const struct wire_records *m = msg;
	const struct wire_record *in = m->list.items;
	struct repair *r = p->filling;

	if (n->role != SYNC_ACTIVE)
		return session_reject(
			s, ERR_PROTO, WIRE_BYE_ROLE, "RECORDS at a standby");
	if (r != NULL && strcmp(r->dir, m->dir) != 0)
		return session_reject(
			s, ERR_PROTO, WIRE_BYE_PROTO, "RECORDS of two mailboxes mixed");
	if (r == NULL) {
		if ((r = calloc(1, sizeof(*r))) == NULL ||
			(r->dir = strdup(m->dir)) == NULL) {
			free(r);
			return ERR_NOMEM;
		}
		snprintf(r->uniqueid, sizeof(r->uniqueid), "%s", m->uniqueid);
		r->present = m->present;
		r->highestmodseq = m->highestmodseq;
		p->filling = r;
	}
	if (r->n + m->list.n > r->cap) {
		size_t cap = r->n + m->list.n + (m->last ? 0 : r->n + m->list.n);
		struct mbox_digest *more =
			cap > DIGESTS_MAX ? NULL
					  : realloc(r->digests, cap * sizeof(*more));
		if (more == NULL)
			return ERR_NOMEM;
		r->digests = more;
		r->cap = cap;
	}
	for (size_t i = 0; i < m->list.n; i++) {
		struct rd rd = rd_over(in[i].hash, sizeof(in[i].hash));
		if (in[i].uid == 0 ||
			(r->n > 0 && r->digests[r->n - 1].uid >= in[i].uid))
			return session_reject(s, ERR_PROTO, WIRE_BYE_PROTO,
				"RECORDS not in order of UID");
		r->digests[r->n++] = (struct mbox_digest){ .uid = in[i].uid,
			.guid = in[i].guid,
			.digest = rd_be64(&rd),
			.modseq = in[i].modseq,
			.gone = in[i].gone };
	}
	if (!m->last)
		return 0;
	p->filling = NULL;
	p->digests_held += r->n + DIGESTS_EACH;
	p->to_repair++;
	*p->repairs_end = r;
	p->repairs_end = &r->next;
	compare_pump(p);
	return 0;
}

int
compare_on_diff(void *node, struct session *s, const void *msg)
{
	struct peer *p = duty_peer(node, s);
	const struct wire_diff *m = msg;

	if (p->node->role == SYNC_STANDBY)
		return ask_on_diff(p->node, m);
	if (m->last) {
		p->diff_done = true;
		compare_pump(p);
	}
	return 0;
}

int
compare_on_quarantine(void *node, struct session *s, const void *msg)
{
	struct node *n = node;
	struct peer *p = duty_peer(n, s);
	const struct wire_quarantine *m = msg;

	if (n->role == SYNC_ACTIVE && asides_take(p, m))
		return 0;
	if (n->role == SYNC_STANDBY && m->dir[0] == '\0')
		return withheld_take(p, m);
	log_warn("mailbox set aside at the other side: peer=%s dir=%s uid=%" PRIu32
		 " check=%s: %s",
		p->conf->name, m->dir, m->uid, m->check, m->text);
	if (n->role == SYNC_ACTIVE) {
		node_note_error(p, "%s has set %s aside: uid=%" PRIu32 " check=%s: %s",
			p->conf->name, m->dir, m->uid, m->check, m->text);
		return 0;
	}
	struct mboxent *e = mboxes_get(n->mboxes, m->dir);
	struct inbox_quarantine q = { m->dir, m->uid, m->check, m->text, 0, p->fed };
	if (e != NULL) {
		pthread_mutex_lock(&e->lock);
		e->aside = true;
		e->has_more = strcmp(m->check, "has-more") == 0;
		pthread_mutex_unlock(&e->lock);
	}
	int rc = inbox_quarantine_put(n->inbox, &q);
	node_count_asides(n);
	if (rc == 0 && e != NULL)
		ask_end(n, e);
	return rc;
}
