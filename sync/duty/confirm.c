/*
 * confirm.c - what the active side's clients wait for, and how a standby says it.
 *
 * The active side tells with WANT which levels somebody waits for. The standby then sends CONFIRM
 * whenever one of them moves on, at once: `received` in a burst of its own before anything is
 * stored, `flushed` behind the sync, `applied` behind replay. Without WANT nothing of this is done.
 *
 * A peer that has to be compared confirms nothing until that is over and it has confirmed the last
 * row that was journaled until then: rows of the comparison are among those. A peer of an older
 * version is judged by its ACKs, which are late but never wrong.
 */
#include "meta/base/err.h"
#include "sync/level.h"
#include "sync/node.h"

#include <inttypes.h>
#include <string.h>

/* ---- the kinds of a commit ---- */

unsigned
confirm_kinds(const struct batch *b)
{
	unsigned kinds = 0;
	bool records = false, names = false;

	if ((b->flags & (BATCH_CREATE | BATCH_REMOVE | BATCH_WHOLE)) != 0 ||
		b->from_dir != NULL || b->dir == NULL || b->dir[0] == '\0')
		kinds |= 1u << SYNC_OTHER;
	for (size_t i = 0; i < b->n; i++) {
		const struct change *c = &b->changes[i];
		switch (c->kind) {
		case CHANGE_RECORD:
			records = true;
			if (c->u.record.append)
				kinds |= 1u << SYNC_DELIVERY;
			else if ((c->u.record.mask & CHANGE_RECORD_FLAGS) != 0 &&
				 (c->u.record.r.flags &
					 (INDEX_FLAG_EXPUNGED | INDEX_FLAG_UNLINKED)) !=
					 0)
				kinds |= 1u << SYNC_OTHER;
			else
				kinds |= 1u << SYNC_FLAGS;
			break;
		case CHANGE_HEADER: /* goes with everything; alone it is a SELECT */
			break;
		case CHANGE_NAMES:
			names = true;
			break;
		default:
			kinds |= 1u << SYNC_OTHER;
			break;
		}
	}
	/* A new keyword comes with the flag that uses it; without one it is the ACL or the name. */
	if (names && !records)
		kinds |= 1u << SYNC_OTHER;
	return kinds == 0 && b->n > 0 ? 1u << SYNC_FLAGS : kinds;
}

/* ---- any thread ---- */

bool
sync_waits(struct sync *s, unsigned kinds)
{
	struct node *n = &s->node;

	return n->role == SYNC_ACTIVE && level_strongest(n->level, kinds) != SYNC_LOCAL;
}

bool
sync_confirm(struct sync *s, unsigned kinds, sync_confirmed_fn *fn, void *arg)
{
	struct node *n = &s->node;
	enum sync_level level = level_strongest(n->level, kinds);

	if (level == SYNC_LOCAL || n->role != SYNC_ACTIVE)
		return false;
	return level_wait(n->level, level, outq_last(n->outq), fn, arg);
}

bool
sync_refusing(struct sync *s)
{
	return level_refusing(s->node.level);
}

unsigned
sync_force(struct sync *s)
{
	return level_force(s->node.level);
}

bool
sync_forced(struct sync *s)
{
	return level_forced(s->node.level);
}

/* ---- the active side ---- */

static bool
knows_levels(const struct peer *p)
{
	return (session_features(p->session) & WIRE_FEATURE_LEVELS) != 0;
}

static void
tell_level(struct peer *p)
{
	uint64_t upto[SYNC_LEVELS];

	if (!p->sending || p->session == NULL || p->comparing)
		return;
	for (unsigned i = 0; i < SYNC_LEVELS; i++)
		upto[i] = p->reached[i] >= p->cover ? p->reached[i] : 0;
	level_confirmed(p->node->level, p->i, upto);
}

void
confirm_start(struct peer *p, bool stream)
{
	const struct wire_hello *h = session_hello(p->session);
	struct wire_want m = { (uint8_t)level_wanted(p->node->level) };

	memset(p->reached, 0, sizeof(p->reached));
	p->cover = 0;
	if (m.levels == 0)
		return;
	if (stream) {
		p->reached[SYNC_RECEIVED] = h->held_received;
		p->reached[SYNC_FLUSHED] = p->reached[SYNC_APPLIED] = h->held_applied;
	}
	if (knows_levels(p))
		session_send(p->session, WIRE_WANT, &m);
	tell_level(p);
}

void
confirm_compared(struct peer *p)
{
	p->cover = p->node->journal_last;
	tell_level(p);
}

void
confirm_stop(struct peer *p)
{
	level_away(p->node->level, p->i);
}

void
confirm_from_ack(struct peer *p, const struct wire_ack *m)
{
	if (knows_levels(p))
		return;
	p->reached[SYNC_RECEIVED] = m->received;
	/* `flushed` goes past a row that was skipped for a repair, `applied` does not. */
	p->reached[SYNC_FLUSHED] = p->reached[SYNC_APPLIED] =
		m->flushed < m->applied ? m->flushed : m->applied;
	tell_level(p);
}

int
confirm_on_confirm(void *node, struct session *s, const void *msg)
{
	struct node *n = node;
	struct peer *p = duty_peer(n, s);
	const struct wire_confirm *m = msg;

	if (m->received > n->journal_last || m->flushed > n->journal_last ||
		m->applied > n->journal_last)
		return session_reject(s, ERR_PROTO, WIRE_BYE_PROTO,
			"CONFIRM beyond what was sent: last=%" PRIu64,
			(uint64_t)n->journal_last);
	p->reached[SYNC_RECEIVED] = m->received;
	p->reached[SYNC_FLUSHED] = m->flushed;
	p->reached[SYNC_APPLIED] = m->applied;
	tell_level(p);
	return 0;
}

/* ---- the standby ---- */

int
confirm_on_want(void *node, struct session *s, const void *msg)
{
	struct peer *p = duty_peer(node, s);
	const struct wire_want *m = msg;

	p->want = m->levels;
	return 0;
}

/* A position of the inbox as a seq of the journal that is being fed; everything that came before
 * its START is settled when the inbox is. */
static uint64_t
seq_of(const struct peer *p, struct pos pos, const struct inbox_facts *f)
{
	if (pos.epoch == p->fed.epoch && pos.run == p->fed.run)
		return pos.seq;
	return pos_cmp(pos, f->received) == 0 && p->began.seq > 0 ? p->began.seq - 1
								  : 0;
}

static bool
wants(const struct peer *p, enum sync_level level)
{
	return (p->want & 1u << level) != 0;
}

static bool
send_confirm(struct peer *p, const struct wire_confirm *m)
{
	if (memcmp(m, &p->confirmed, sizeof(*m)) == 0 ||
		session_send(p->session, WIRE_CONFIRM, m) != 0)
		return false;
	p->confirmed = *m;
	return true;
}

/* A row that was skipped for a repair is neither here nor there. */
static uint64_t
clamp(const struct node *n, uint64_t seq)
{
	return n->open_repairs > 0 && seq >= n->open_from ? n->open_from - 1 : seq;
}

/* What is here with its bodies. */
static uint64_t
whole_seq(const struct peer *p, const struct inbox_facts *f)
{
	bool all = pos_cmp(p->node->lacking, f->done) <= 0;

	return clamp(p->node, all ? p->fed.seq : seq_of(p, f->done, f));
}

bool
confirm_early(struct peer *p)
{
	struct wire_confirm m = p->confirmed;
	struct inbox_facts f;

	if (!wants(p, SYNC_RECEIVED))
		return false;
	inbox_facts(p->node->inbox, &f);
	m.received = whole_seq(p, &f);
	return send_confirm(p, &m);
}

/* What is on disk with its bodies. */
static uint64_t
safe_seq(const struct peer *p, const struct inbox_facts *f)
{
	bool all = flush_is_safe(p->node, f);

	return clamp(p->node, all ? p->fed.seq : seq_of(p, f->applied, f));
}

bool
confirm_flushed(struct peer *p)
{
	struct wire_confirm m = p->confirmed;
	struct inbox_facts f;

	if (!wants(p, SYNC_FLUSHED))
		return false;
	inbox_facts(p->node->inbox, &f);
	m.flushed = safe_seq(p, &f);
	return send_confirm(p, &m);
}

void
confirm_late(struct peer *p, const struct inbox_facts *f)
{
	struct node *n = p->node;
	struct wire_confirm m = { 0, 0, 0 };
	uint64_t safe, seen;

	if (p->want == 0)
		return;
	safe = safe_seq(p, f);
	seen = clamp(n, seq_of(p, f->done, f));
	if (wants(p, SYNC_RECEIVED))
		m.received = whole_seq(p, f);
	if (wants(p, SYNC_FLUSHED))
		m.flushed = safe;
	if (wants(p, SYNC_APPLIED))
		m.applied = seen < safe ? seen : safe;
	send_confirm(p, &m);
}
