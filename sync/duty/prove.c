/*
 * prove.c - a clean stop is a proof: the sum of all mailboxes, at our last position, is the
 * peer's, too. Where it is not, all mailboxes are compared, unless they just have been: what differs
 * is made equal or set aside, and whoever asked asks again.
 */
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "sync/node.h"
#include "sync/replay.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* What is set aside here, "2 set aside here: box/a, box/b"; as many names as there is room for. */
struct list {
	char *text;
	size_t size, len;
};

static int
name_one(void *arg, const struct inbox_quarantine *q)
{
	struct list *l = arg;
	int n = snprintf(l->text + l->len, l->size - l->len, "%s%s",
		l->text[l->len - 1] == ':' ? " " : ", ", q->dir);

	if (n < 0 || (size_t)n >= l->size - l->len) {
		l->text[l->len] = '\0';
		return 1;
	}
	l->len += (size_t)n;
	return 0;
}

static void
name_asides(struct node *n, char *text, size_t size)
{
	struct list l = { text, size, 0 };
	int len = snprintf(text, size,
		"%" PRIu64 " set aside here:", inbox_quarantine_count(n->inbox));

	l.len = (size_t)len;
	(void)inbox_quarantine_walk(n->inbox, name_one, &l);
}

static void
answer(struct peer *p, bool ok, bool final, const char *text)
{
	struct node *n = p->node;

	pthread_mutex_lock(&n->lock);
	p->proved_mended = p->mending && !p->comparing ? p->repaired : 0;
	p->proved_final = final;
	p->proved_ok = ok;
	snprintf(p->proved_text, sizeof(p->proved_text), "%s", text);
	p->proved_id = p->prove_id;
	p->mending &= p->comparing;
	pthread_mutex_unlock(&n->lock);
	node_publish(n);
}

/* Asks each peer that has everything and was not asked since the last request. */
void
prove_tick(struct node *n)
{
	uint64_t last = n->journal_last;
	struct wire_verify m = { .seq = last };
	bool summed = false;

	pthread_mutex_lock(&n->lock);
	uint64_t want = n->prove_ids;
	pthread_mutex_unlock(&n->lock);
	for (unsigned i = 0; i < n->n_peers; i++) {
		struct peer *p = &n->peers[i];
		if (p->prove_id >= want || !p->sending || p->session == NULL ||
			p->comparing || p->visible < last)
			continue;
		if (n->asides > 0) {
			/* What nobody may send is not equal, and no comparison makes it so. */
			char text[sizeof(p->proved_text)];
			name_asides(n, text, sizeof(text));
			p->prove_id = want;
			answer(p, false, true, text);
			continue;
		}
		if (!summed)
			sum_put(mboxes_total(n->mboxes), m.sum);
		summed = true;
		if (session_send(p->session, WIRE_VERIFY, &m) == 0) {
			p->prove_id = want;
			p->prove_seq = last;
		}
	}
}

int
prove_on_verify(void *node, struct session *s, const void *msg)
{
	struct node *n = node;
	const struct wire_verify *m = msg;
	struct inbox_facts f;
	char text[250] = "", asides[200] = "";
	uint8_t ours[SUM_LEN];
	struct wire_verified says = { .seq = m->seq, .text = text };

	if (n->role == SYNC_ACTIVE)
		return session_reject(
			s, ERR_PROTO, WIRE_BYE_ROLE, "VERIFY at the active side");
	inbox_facts(n->inbox, &f);
	if (inbox_quarantine_count(n->inbox) > 0)
		name_asides(n, asides, sizeof(asides));
	sum_put(mboxes_total(n->mboxes), ours);
	if (!replay_idle(n->replay) || f.pending > 0)
		snprintf(text, sizeof(text), "%" PRIu64 " batches are not applied yet",
			f.pending);
	else if (memcmp(ours, m->sum, SUM_LEN) != 0)
		snprintf(text, sizeof(text), "the sum of all mailboxes differs%s%s",
			asides[0] ? "; " : "", asides);
	else
		says.ok = true;
	if (says.ok)
		memcpy(text, asides, sizeof(asides));
	return session_send(s, WIRE_VERIFIED, &says);
}

int
prove_on_verified(void *node, struct session *s, const void *msg)
{
	struct node *n = node;
	struct peer *p = duty_peer(n, s);
	const struct wire_verified *m = msg;

	if (m->seq != p->prove_seq)
		return 0; /* of an older question */
	if (!m->ok && n->journal_last != p->prove_seq) {
		/* It may speak of what came meanwhile: it is asked again once it has that. */
		p->prove_id = p->proved_id;
		return 0;
	}
	if (!m->ok && p->compared_at != p->prove_seq && !p->comparing) {
		log_warn("the proof failed, all mailboxes are compared: peer=%s: %s",
			p->conf->name, m->text);
		p->mending = true;
		compare_again(p); /* the waiter must see that before the answer */
	}
	char text[sizeof(p->proved_text)];
	snprintf(text, sizeof(text), "%.260s%s", m->text,
		!m->ok && !p->comparing ? ", and all were compared" : "");
	answer(p, m->ok, !p->comparing, text);
	return 0;
}
