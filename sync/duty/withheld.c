/*
 * withheld.c - what the active side has set aside, and what a standby keeps because of it.
 *
 * Nothing of such a mailbox is sent. If a message is moved into it, all that the standby hears is
 * that it went from where it was, and that copy would be its last one there. So the active side says
 * that something is withheld before it sends the next row, and from then on replay moves what it
 * removes to kept/. That is taken back once nothing is set aside and the peer has applied all that
 * was journaled until the last one was cured, the row that states it among them. A standby that was
 * told nothing since its start keeps as well.
 */
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "sync/node.h"

static const char withheld_key[] = "withheld";

void
withheld_load(struct node *n)
{
	uint64_t seq;

	n->withheld = n->role == SYNC_STANDBY;
	if (store_get_u64(n->store, withheld_key, &seq) == 0)
		n->withheld_seq = seq;
}

/* ---- the active side ---- */

void
withheld_upto(struct node *n, uint64_t seq, bool store)
{
	if (seq > n->withheld_seq)
		n->withheld_seq = seq;
	int rc = store ? store_put_u64(n->store, withheld_key, n->withheld_seq) : 0;
	if (rc != 0)
		log_err("that a mailbox was withheld cannot be stored: %s",
			err_text(rc));
}

static bool
is_withheld(const struct peer *p)
{
	return p->node->asides > 0 || p->visible < p->node->withheld_seq;
}

static bool
say(struct peer *p, bool withheld)
{
	struct wire_quarantine m = { "", withheld, "", "" };

	if ((session_features(p->session) & WIRE_FEATURE_WITHHELD) != 0 &&
		session_send(p->session, WIRE_QUARANTINE, &m) != 0)
		return false;
	p->withheld_told = withheld;
	return true;
}

bool
withheld_begin(struct peer *p)
{
	return say(p, is_withheld(p));
}

bool
withheld_before_row(struct peer *p)
{
	return p->withheld_told || !is_withheld(p) || say(p, true);
}

void
withheld_end(struct peer *p)
{
	if (p->sending && p->session != NULL && p->withheld_told && !is_withheld(p))
		(void)say(p, false);
}

/* ---- a standby ---- */

int
withheld_take(struct peer *p, const struct wire_quarantine *m)
{
	struct node *n = p->node;

	if ((session_features(p->session) & WIRE_FEATURE_WITHHELD) == 0)
		return session_reject(p->session, ERR_PROTO, WIRE_BYE_PROTO,
			"QUARANTINE of no mailbox");
	if (m->uid != 0)
		log_info("the active side withholds mailboxes that it has set aside: "
			 "what is removed here is kept");
	n->withheld = m->uid != 0;
	return 0;
}
