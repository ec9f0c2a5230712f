/*
 * ask.c - a standby asks for what is not equal, and answers the list of sums.
 *
 * RECORDS says what a mailbox here is like: the digest of each record. It is sent for each one
 * whose sum differs from the active side's, for each that the list did not name, and for one that
 * a batch did not fit. The cure comes as a batch (compare.c). What a batch did not fit is on disk
 * until it is cured, so that neither a restart nor a lost connection forgets it.
 */
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "sync/node.h"
#include "sync/replay.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RECORDS_PAGE = 10000 };

struct page {
	struct node *n;
	struct session *s;
	struct wire_records m;
	struct wire_record items[RECORDS_PAGE];
};

static int
page_add(void *arg, const struct mbox_digest *d)
{
	struct page *pg = arg;
	struct wire_record *r = &pg->items[pg->m.list.n++];

	r->uid = d->uid;
	r->guid = d->guid;
	r->modseq = d->modseq;
	r->gone = d->gone;
	for (unsigned i = 0; i < 8; i++)
		r->hash[i] = (uint8_t)(d->digest >> (56 - 8 * i));
	if (pg->m.list.n < RECORDS_PAGE)
		return 0;
	int rc = session_send(pg->s, WIRE_RECORDS, &pg->m);
	pg->m.list.n = 0;
	return rc;
}

static struct session *
feeder(struct node *n)
{
	for (unsigned i = 0; i < n->n_peers; i++)
		if (n->peers[i].feeding && n->peers[i].session != NULL)
			return n->peers[i].session;
	return NULL;
}

/* Sends the digests of a mailbox as it is. Remembered in the store until it is repaired, so that
 * a restart asks again. */
static int
send_records(struct node *n, struct session *s, const char *dir)
{
	struct mboxent *e = mboxes_get(n->mboxes, dir);
	struct page *pg = calloc(1, sizeof(*pg));
	struct mbox_fault fault = { 0 };
	char id[64] = "";
	int rc = 0;

	if (e == NULL || pg == NULL) {
		free(pg);
		return ERR_NOMEM;
	}
	pg->n = n;
	pg->s = s;
	pg->m.list.items = pg->items;
	pg->m.dir = dir;
	pg->m.uniqueid = id;
	pthread_mutex_lock(&e->lock);
	/* Written by a batch that did not fit: it is here, whatever is known of it. */
	if (!e->known && !mboxes_is_path(dir) &&
		mbox_load(n->spool, dir, NULL, e->state, &fault) == 0) {
		e->known = true;
		mboxes_dirty(n->mboxes, e);
		mboxes_identify(n->mboxes, e);
	}
	pg->m.present = e->known;
	pg->m.highestmodseq =
		e->known && e->state != NULL ? e->state->header.highestmodseq : 0;
	snprintf(id, sizeof(id), "%s", mboxes_id(e));
	if (e->known && !mboxes_is_path(dir))
		rc = mbox_digests(n->spool, dir, e->prove, page_add, pg);
	if (rc == ERR_NOTFOUND || rc == ERR_MANGLED || rc == ERR_CHECKSUM ||
		rc == ERR_VERSION) {
		/* What is here cannot be read: everything is stated anew. */
		if (e->known)
			log_warn("mailbox unreadable here, asking for all of it: "
				 "dir=%s: %s",
				dir, err_text(rc));
		e->redo = true;
		pg->m.highestmodseq = 0;
		pg->m.list.n = 0;
		rc = 0;
	}
	pthread_mutex_unlock(&e->lock);
	pg->m.last = true;
	if (rc == 0)
		rc = session_send(s, WIRE_RECORDS, &pg->m);
	free(pg);
	return rc;
}

/* The list of what a batch did not fit, one name after the other. Asked for in a full comparison
 * is not on it: that begins again by itself. But what is owed is, for the active side takes it for
 * settled. */
static void
save_repairs(struct node *n)
{
	struct buf list = BUF_INIT;
	size_t count;
	struct mboxent **all = mboxes_list(n->mboxes, &count);

	for (size_t i = 0; all != NULL && i < count; i++)
		if ((all[i]->repairing && all[i]->repairs > 0) ||
			(all[i]->owed && !mboxes_is_path(all[i]->dir)))
			buf_put(&list, all[i]->dir, strlen(all[i]->dir) + 1);
	int rc = buf_ok(&list);
	n->owed_due = false;
	if (rc == 0)
		rc = store_put_blob(n->store, "repairs", list.data, list.len);
	if (rc != 0)
		log_err("what is to be compared cannot be stored: %s", err_text(rc));
	buf_fini(&list);
	free(all);
}

static void
ask_later(struct node *n, struct mboxent *e)
{
	if (e->asking)
		return;
	if (n->n_asks == n->cap_asks) {
		size_t cap = n->cap_asks ? n->cap_asks * 2 : 64;
		struct mboxent **more = realloc(n->asks, cap * sizeof(*more));
		if (more == NULL)
			return; /* it stays `repairing`: asked for with the next session */
		n->asks = more;
		n->cap_asks = cap;
	}
	e->asking = true;
	n->asks[n->n_asks++] = e;
}

void
ask_pump(struct node *n)
{
	struct session *s = feeder(n);

	while (s != NULL && n->asks_at < n->n_asks && !session_full(s)) {
		struct mboxent *e = n->asks[n->asks_at++];
		e->asking = false;
		int rc = send_records(n, s, e->dir);
		if (rc != 0 && rc != ERR_CLOSED)
			log_err("a mailbox cannot be compared yet: dir=%s: %s", e->dir,
				err_text(rc));
	}
	if (n->asks_at < n->n_asks)
		return;
	n->n_asks = n->asks_at = 0;
	if (n->diff_due && s != NULL) {
		struct wire_diff d = { { NULL, 0 }, true };
		if (session_send(s, WIRE_DIFF, &d) == 0)
			n->diff_due = false;
	}
}

void
ask_mailbox(struct node *n, const char *dir)
{
	struct mboxent *e = mboxes_get(n->mboxes, dir);

	if (e == NULL)
		return;
	pthread_mutex_lock(&e->lock);
	ask_mark(n, e, true);
	pthread_mutex_unlock(&e->lock);
	if (e->repairs > 0)
		save_repairs(n);
	ask_later(n, e);
	ask_pump(n);
}

void
ask_save(struct node *n)
{
	if (n->owed_due)
		save_repairs(n);
}

void
ask_moved(struct node *n, const char *target)
{
	size_t count;
	struct mboxent **list;

	if (n->repairing == 0 || (list = mboxes_list(n->mboxes, &count)) == NULL)
		return;
	for (size_t i = 0; i < count; i++)
		if (list[i]->repairing && mboxes_rest(list[i]->dir, target) != NULL)
			ask_mailbox(n, list[i]->dir);
	free(list);
}

void
ask_anew(struct node *n, const char *dir)
{
	struct mboxent *e = mboxes_get(n->mboxes, dir);

	if (e == NULL)
		return;
	pthread_mutex_lock(&e->lock);
	e->redo = true;
	e->repairs += e->repairs == 0; /* so that a restart knows of it */
	pthread_mutex_unlock(&e->lock);
	ask_mailbox(n, dir);
}

void
ask_folder(struct node *n, const char *from, const char *target)
{
	char to[BATCH_MAX_PATH];
	const char *rest;
	size_t count;
	struct mboxent **list = mboxes_list(n->mboxes, &count);

	for (size_t i = 0; list != NULL && i < count; i++) {
		struct mboxent *e = list[i];
		bool path = mboxes_is_path(e->dir);
		if (!e->known && !e->repairing && !e->owed)
			continue;
		if ((rest = mboxes_rest(e->dir, from)) != NULL) {
			ask_anew(n, e->dir);
			if (target != NULL &&
				(size_t)snprintf(to, sizeof(to), "%s%s%s",
					path ? "/" : "", target, rest) < sizeof(to))
				ask_anew(n, to);
		} else if (target != NULL && mboxes_rest(e->dir, target) != NULL) {
			ask_anew(n, e->dir);
		}
	}
	free(list);
	/* Of a mailbox that was moved before its first row fitted here, nothing is known by name. */
	if (target != NULL)
		ask_anew(n, target);
}

void
ask_load(struct node *n)
{
	struct buf list = BUF_INIT;
	struct inbox_facts f;

	inbox_facts(n->inbox, &f);

	if (store_get_blob(n->store, "repairs", &list) == 0 && list.len > 0 &&
		list.data[list.len - 1] == '\0') {
		for (size_t at = 0; at < list.len;
			at += strlen((const char *)list.data + at) + 1) {
			struct mboxent *e =
				mboxes_get(n->mboxes, (const char *)list.data + at);
			if (e == NULL)
				continue;
			ask_mark(n, e, true);
			e->redo = true;
			e->repairs = 1;
			ask_open(n, e, f.done.seq + 1);
		}
	}
	buf_fini(&list);
}

void
ask_open(struct node *n, struct mboxent *e, uint64_t seq)
{
	if (e->open)
		return;
	e->open = true;
	if (n->open_repairs++ == 0 || seq < n->open_from)
		n->open_from = seq;
}

void
ask_open_moved(struct node *n, const char *from, const char *to)
{
	char key[BATCH_MAX_PATH + 2];
	size_t count;
	struct mboxent **list;

	if (n->open_repairs == 0 || (list = mboxes_list(n->mboxes, &count)) == NULL)
		return;
	for (size_t i = 0; i < count; i++) {
		const char *rest = mboxes_rest(list[i]->dir, from);
		if (!list[i]->open || rest == NULL)
			continue;
		snprintf(key, sizeof(key), "%s%s%s",
			mboxes_is_path(list[i]->dir) ? "/" : "", to, rest);
		struct mboxent *e = mboxes_get(n->mboxes, key);
		if (e == NULL)
			continue;
		list[i]->open = false;
		n->open_repairs -= e->open;
		e->open = true;
	}
	free(list);
}

void
ask_mark(struct node *n, struct mboxent *e, bool repairing)
{
	if (e->repairing == repairing)
		return;
	e->repairing = repairing;
	if (repairing)
		n->repairing++;
	else
		n->repairing--;
}

bool
ask_keeps(const struct node *n)
{
	return n->asides > 0 || n->repairing > 0 || n->open_repairs > 0 || n->unsure ||
	       n->withheld;
}

void
ask_end(struct node *n, struct mboxent *e)
{
	pthread_mutex_lock(&e->lock);
	ask_mark(n, e, false);
	pthread_mutex_unlock(&e->lock);
	if (!e->open)
		return;
	e->open = false;
	n->open_repairs--;
}

/* The active side finds nothing to do for these. */
int
ask_on_diff(struct node *n, const struct wire_diff *m)
{
	const struct wire_dir *d = m->list.items;

	for (size_t i = 0; i < m->list.n; i++) {
		struct mboxent *e = mboxes_find(n->mboxes, d[i].dir);
		if (e != NULL) {
			/* It may have another name there, and the row that says so is on its
			 * way. */
			pthread_mutex_lock(&e->lock);
			e->owed = e->repairing;
			n->owed_due |= e->owed;
			pthread_mutex_unlock(&e->lock);
		}
		ask_repaired(n, d[i].dir);
	}
	return 0;
}

void
ask_repaired(struct node *n, const char *dir)
{
	struct mboxent *e = mboxes_find(n->mboxes, dir);

	if (e == NULL)
		return;
	pthread_mutex_lock(&e->lock);
	bool was = e->repairs > 0;
	e->repairs = 0;
	pthread_mutex_unlock(&e->lock);
	ask_end(n, e);
	if (was) {
		log_info("mailbox repaired: dir=%s", dir);
		save_repairs(n);
	}
}

void
ask_forget_owed(struct node *n)
{
	size_t count;
	struct mboxent **list = mboxes_list(n->mboxes, &count);

	for (size_t i = 0; list != NULL && i < count; i++) {
		pthread_mutex_lock(&list[i]->lock);
		n->owed_due |= list[i]->owed;
		list[i]->owed = false;
		pthread_mutex_unlock(&list[i]->lock);
	}
	free(list);
}

/* After a new session: what was asked for and not answered. A comparison names everything, and
 * what it does not name is an extra; asked for twice it would be sent twice. */
void
ask_resume(struct node *n)
{
	size_t count;
	struct mboxent **list;

	if (n->repairing == 0 || (list = mboxes_list(n->mboxes, &count)) == NULL)
		return;
	for (size_t i = 0; i < count; i++)
		if (list[i]->repairing)
			ask_mailbox(n, list[i]->dir);
	free(list);
}

static bool
differs(struct node *n, const struct wire_sum *w, uint32_t round)
{
	struct mboxent *e = mboxes_get(n->mboxes, w->dir);
	bool differ = true;

	if (e == NULL)
		return false;
	pthread_mutex_lock(&e->lock);
	/* Asked for in an earlier session, and nothing came of it. */
	bool again = e->repairing && round != 0 && e->round != round;
	if (round != 0)
		e->round = round;
	bool aside = e->aside;
	if (!again && e->known && !e->redo && strcmp(mboxes_id(e), w->uniqueid) == 0)
		differ = !sum_eq(mboxes_sum(e), sum_get(w->sum));
	if (aside && e->has_more && differ) {
		/* Only hands can tell what of it is to stay. */
		pthread_mutex_unlock(&e->lock);
		return false;
	}
	if (aside)
		e->aside = e->has_more = false;
	pthread_mutex_unlock(&e->lock);
	if (aside) {
		struct inbox_facts f;
		inbox_facts(n->inbox, &f);
		log_info("mailbox was set aside, it is tried again: dir=%s", w->dir);
		ask_open(n, e, f.done.seq + 1);
		inbox_quarantine_release(n->inbox, w->dir, false);
		node_count_asides(n);
		differ = true;
	}
	return differ;
}

/* What we have, or have asked for, and the active side did not list. */
static void
name_extras(struct node *n, struct peer *p)
{
	size_t count;
	struct mboxent **list = mboxes_list(n->mboxes, &count);

	for (size_t i = 0; list != NULL && i < count; i++)
		if ((list[i]->known || list[i]->repairing) && !list[i]->aside &&
			list[i]->round != p->round)
			ask_later(n, list[i]);
	free(list);
}

/*
 * Rows from before the comparison may still be replayed, and make mailboxes that the active side
 * removed long ago; their removal is no longer sent. So the extras are named behind those rows.
 */
void
ask_extras(struct node *n, struct peer *p)
{
	if (!p->extras_due || !inbox_settled_before(n->inbox, p->began))
		return;
	p->extras_due = false;
	name_extras(n, p);
	n->diff_due = true;
	n->unsure = false;
	ask_pump(n);
}

int
ask_on_sums(void *node, struct session *s, const void *msg)
{
	struct node *n = node;
	struct peer *p = duty_peer(n, s);
	const struct wire_sums *m = msg;
	const struct wire_sum *w = m->list.items;

	if (n->role == SYNC_ACTIVE)
		return session_reject(
			s, ERR_PROTO, WIRE_BYE_ROLE, "SUMS at the active side");
	for (size_t i = 0; i < m->list.n; i++)
		if (differs(n, &w[i], p->round))
			ask_mailbox(n, w[i].dir);
	if (m->last) {
		p->extras_due = true;
		ask_extras(n, p);
	}
	return 0;
}

int
ask_on_list(void *node, struct session *s, const void *msg)
{
	struct node *n = node;
	const struct wire_list *m = msg;

	if (n->role == SYNC_ACTIVE)
		return session_reject(
			s, ERR_PROTO, WIRE_BYE_ROLE, "LIST at the active side");
	ask_mailbox(n, m->dir);
	return 0;
}
