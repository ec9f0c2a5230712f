/*
 * wait.c - waiting for the peers: until they have applied all, and until they have proved it.
 *
 * Who waits looks at the facts that the peer thread publishes, each time they change. What is missing
 * is said in words, for whoever gives up.
 */
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "sync/node.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

enum { SLICE_MS = 200 };

/* Under the lock. What keeps the wait from being over. */
static bool
lacks(struct node *n, uint64_t ticket, uint64_t *seq, struct buf *text)
{
	bool any = false, comparing = false;

	if (text != NULL)
		buf_clear(text);
	if (outq_settled_upto(n->outq) < ticket) {
		if (text != NULL)
			buf_printf(text, "changes are not in the journal yet\n");
		return true;
	}
	if (*seq == 0)
		*seq = n->journal_last;
	for (unsigned i = 0; i < n->n_peers; i++) {
		struct sync_peer_facts *pf = &n->facts.peers[i];
		bool whole = pf->connected && strcmp(pf->state, "streaming") == 0;
		if (whole && pf->applied >= *seq)
			continue;
		any = true;
		comparing |= !whole;
		if (text == NULL)
			continue;
		if (!pf->connected)
			buf_printf(text,
				"peer %s is not connected%s%s; it has %" PRIu64
				" of %" PRIu64 "\n",
				n->conf.peers[i].name, pf->error[0] ? ": " : "",
				pf->error, pf->applied, *seq);
		else
			buf_printf(text,
				"peer %s (%s) has applied %" PRIu64 " of %" PRIu64 "\n",
				n->conf.peers[i].name, pf->state, pf->applied, *seq);
	}
	/* What a comparison finds is journaled behind what was there: that counts too. */
	if (comparing)
		*seq = 0;
	return any;
}

/* Waits under the lock until what is missing is not, or it is time to give up. */
struct patience {
	uint64_t until_ms;
	sync_on_fn *on;
	void *on_arg;
};

static int
wait_a_little(struct node *n, const struct patience *pa)
{
	struct timespec until = clock_until(SLICE_MS);

	if (n->stopping)
		return ERR_CLOSED;
	if (n->later_epoch > epoch_current(&n->epoch.line))
		return ERR_ROLE;
	if (clock_ms() >= pa->until_ms)
		return ERR_TIMEOUT;
	/* Asked after every turn: news come often enough to keep a wait from timing out. */
	clock_wait(&n->changed, &n->lock, &until);
	if (pa->on != NULL) {
		pthread_mutex_unlock(&n->lock);
		bool on = pa->on(pa->on_arg);
		pthread_mutex_lock(&n->lock);
		if (!on)
			return ERR_CLOSED;
	}
	return 0;
}

int
sync_wait(struct sync *s, uint64_t timeout_ms, sync_on_fn *on, void *on_arg,
	struct buf *lack_out)
{
	struct node *n = &s->node;
	const struct patience pa = { clock_ms() + timeout_ms, on, on_arg };
	uint64_t ticket = outq_last(n->outq), seq = 0;
	char text[400];
	int rc = 0;

	if (n->role != SYNC_ACTIVE)
		return 0;
	pthread_mutex_lock(&n->lock);
	while (rc == 0 && lacks(n, ticket, &seq, lack_out))
		rc = wait_a_little(n, &pa);
	pthread_mutex_unlock(&n->lock);
	if (hello_stale(n, text, sizeof(text))) {
		rc = ERR_ROLE; /* nobody who could confirm anything follows us */
		if (lack_out != NULL) {
			buf_clear(lack_out);
			buf_printf(lack_out, "%s\n", text);
		}
	}
	return rc;
}

/* Under the lock. */
static bool
unproved(struct node *n, uint64_t id, struct buf *text, bool *wrong)
{
	bool any = false;

	if (text != NULL)
		buf_clear(text);
	*wrong = false;
	for (unsigned i = 0; i < n->n_peers; i++) {
		struct peer *p = &n->peers[i];
		if (p->proved_id < id) {
			any = true;
			if (text != NULL)
				buf_printf(text, "peer %s has not confirmed its sum\n",
					p->conf->name);
		} else if (!p->proved_ok) {
			*wrong = true;
			if (text != NULL)
				buf_printf(text, "peer %s: %s\n", p->conf->name,
					p->proved_text);
		} else if (p->proved_mended > 0 && text != NULL) {
			buf_printf(text,
				"peer %s differed, and was compared: mailboxes=%" PRIu64
				"; it is equal now%s%s\n",
				p->conf->name, p->proved_mended,
				p->proved_text[0] ? "; " : "", p->proved_text);
		}
	}
	return any;
}

static int
ask_proof(struct sync *s, const struct patience *pa, struct buf *lack_out)
{
	struct node *n = &s->node;
	uint64_t now = clock_ms();
	bool wrong = false;
	int rc;

	if ((rc = sync_wait(s, pa->until_ms > now ? pa->until_ms - now : 0, pa->on,
		     pa->on_arg, lack_out)) != 0)
		return rc;
	pthread_mutex_lock(&n->lock);
	uint64_t id = ++n->prove_ids;
	while (rc == 0 && unproved(n, id, lack_out, &wrong))
		rc = wait_a_little(n, pa);
	pthread_mutex_unlock(&n->lock);
	return rc != 0 ? rc : wrong ? ERR_SUM : 0;
}

/* Where the first answer is no, a comparison began with it: its end is waited for. */
int
sync_prove(struct sync *s, uint64_t timeout_ms, sync_on_fn *on, void *on_arg,
	struct buf *lack_out)
{
	const struct patience pa = { clock_ms() + timeout_ms, on, on_arg };
	int rc;

	if (s->node.role != SYNC_ACTIVE)
		return 0;
	if ((rc = ask_proof(s, &pa, lack_out)) == ERR_SUM)
		rc = ask_proof(s, &pa, lack_out);
	return rc;
}
