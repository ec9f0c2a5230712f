/*
 * asides.c - a standby tells the active side all that it has set aside, for status there.
 *
 * QUARANTINE by itself is news: it goes to the log when it happens. The list follows behind it, whenever
 * it is another one than was told last, and at the beginning of each session: first a QUARANTINE without
 * a folder, whose uid is how many there are, then as many of them as status shows.
 */
#include "sync/node.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TELL_MS = 250 };

struct telling {
	struct session *s;
	unsigned n;
};

static int
tell_one(void *arg, const struct inbox_quarantine *q)
{
	struct wire_quarantine m = { q->dir, q->uid, q->check, q->text };
	struct telling *t = arg;

	if (t->n++ < SYNC_ASIDES_LISTED)
		session_send(t->s, WIRE_QUARANTINE, &m);
	return 0;
}

void
asides_tick(struct node *n, uint64_t now)
{
	if (n->role == SYNC_ACTIVE || now < n->next_asides_ms)
		return;
	n->next_asides_ms = now + TELL_MS;
	for (unsigned i = 0; i < n->n_peers; i++) {
		struct peer *p = &n->peers[i];
		if (!p->feeding || p->session == NULL || p->asides_told ||
			(session_features(p->session) & WIRE_FEATURE_ASIDES) == 0)
			continue;
		struct telling t = { p->session, 0 };
		struct wire_quarantine m = { "",
			(uint32_t)inbox_quarantine_count(n->inbox), "", "" };
		p->asides_told = true;
		if (session_send(t.s, WIRE_QUARANTINE, &m) == 0)
			inbox_quarantine_walk(n->inbox, tell_one, &t);
	}
}

/* Is it of a list, and so no news? Then it is taken. */
bool
asides_take(struct peer *p, const struct wire_quarantine *m)
{
	if ((session_features(p->session) & WIRE_FEATURE_ASIDES) == 0)
		return false;
	if (m->dir[0] == '\0') {
		p->n_asides = m->uid;
		p->n_asides_listed = 0;
		p->asides_coming =
			m->uid < SYNC_ASIDES_LISTED ? m->uid : SYNC_ASIDES_LISTED;
		if (m->uid > 0 && p->asides == NULL)
			p->asides = calloc(SYNC_ASIDES_LISTED, sizeof(*p->asides));
		return true;
	}
	if (p->asides_coming == 0)
		return false;
	p->asides_coming--;
	if (p->asides == NULL)
		return true; /* no memory: the count must do */
	struct sync_quarantine_facts *q = &p->asides[p->n_asides_listed++];
	memset(q, 0, sizeof(*q));
	q->peer = p->i;
	q->uid = m->uid;
	snprintf(q->dir, sizeof(q->dir), "%s", m->dir);
	snprintf(q->check, sizeof(q->check), "%s", m->check);
	snprintf(q->text, sizeof(q->text), "%s", m->text);
	return true;
}

void
asides_facts(const struct peer *p, struct sync_facts *f)
{
	f->peers[p->i].n_quarantined = p->n_asides;
	for (unsigned i = 0; i < p->n_asides_listed; i++)
		if (f->n_peer_listed < SYNC_ASIDES_LISTED)
			f->peer_quarantined[f->n_peer_listed++] = p->asides[i];
}
