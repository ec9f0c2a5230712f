/*
 * hello.c - who we are, who the peer is, and whether the two fit.
 *
 * Exactly one side is active. Two active sides never exchange anything: the link is dropped with
 * the reason in both logs, again at every try, until an administrator decides. A standby follows
 * the line of epochs of its active; an active that meets a higher epoch, whatever the peer's
 * role, is stale: it is refused, says so, and lets nothing in any more.
 */
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "sync/level.h"
#include "sync/node.h"
#include "sync/replay.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct peer *
duty_peer(struct node *n, struct session *s)
{
	return &n->peers[session_peer_index(s)];
}

static void
hello(void *arg, struct session *s, struct wire_hello *h)
{
	struct node *n = arg;
	struct journal_facts jf;
	struct inbox_facts inf;

	(void)s;
	journal_facts(n->journal, &jf);
	inbox_facts(n->inbox, &inf);
	h->role = (uint8_t)n->role;
	h->epoch = epoch_current(&n->epoch.line);
	h->run = jf.last.run;
	h->spool_id = n->conf.spool_id;
	if (n->compare_me)
		h->features = WIRE_FEATURE_LOST;
	h->journal_first = jf.first;
	h->journal_last = jf.last.seq;
	h->held_epoch = inf.received.epoch;
	h->held_run = inf.received.run;
	h->held_received = inf.received.seq;
	h->held_flushed = inf.received.seq;
	/* Told without its run: of another one it would say too much. */
	if (inf.applied.epoch == inf.received.epoch &&
		inf.applied.run == inf.received.run)
		h->held_applied = inf.applied.seq;
	buf_clear(&n->line);
	if (epoch_encode(&n->epoch.line, &n->line) == 0)
		h->line = (struct rec_blob){ n->line.data, n->line.len };
}

/*
 * A stale active: another side was promoted while this one was away or cut off. What is written
 * here from now on would have to be merged, so nothing more is let in, and that is stored before
 * anything else follows from it: a restart does not forget it. Following a line that has the later
 * epoch ends it.
 */
static const char later_key[] = "later_epoch";

bool
hello_stale(struct node *n, char *text, size_t size)
{
	uint64_t later = n->later_epoch, ours = epoch_current(&n->epoch.line);

	if (size > 0)
		text[0] = '\0';
	if (n->role != SYNC_ACTIVE || later <= ours)
		return false;
	snprintf(text, size,
		"this side is stale: it is active in epoch %" PRIu64
		", a peer has seen epoch %" PRIu64
		"; nothing new is let in. Stop it, compare its spool with the active "
		"side's and save what only this one has; then join it anew as a "
		"standby, with role: standby, an empty spool and a new state folder",
		ours, later);
	return true;
}

int
hello_load(struct node *n)
{
	uint64_t later = 0;
	char text[400];
	int rc = store_get_u64(n->store, later_key, &later);

	if (rc != 0)
		return rc == ERR_NOTFOUND ? 0 : rc;
	n->later_epoch = later;
	if (hello_stale(n, text, sizeof(text))) {
		log_err("%s", text);
		level_fail(n->level, ERR_ROLE);
	}
	return 0;
}

static void
met_later(struct node *n, uint64_t epoch)
{
	char text[400];

	if (epoch > n->later_epoch) {
		int rc = store_put_u64(n->store, later_key, epoch);
		if (rc != 0)
			log_err("that this side is stale cannot be stored: %s",
				err_text(rc));
		n->later_epoch = epoch;
		if (hello_stale(n, text, sizeof(text)))
			log_err("%s", text);
		level_fail(n->level, ERR_ROLE);
		pthread_mutex_lock(&n->lock);
		n->facts.later_epoch = epoch;
		memcpy(n->facts.stale, text, sizeof(text));
		pthread_mutex_unlock(&n->lock);
	}
	if (n->hooks.stale != NULL)
		n->hooks.stale(n->hooks.arg);
	node_publish(n); /* whoever waits gives up */
}

static int
judge(void *arg, struct session *s, const struct wire_hello *h)
{
	struct node *n = arg;
	struct peer *p = duty_peer(n, s);

	if (h->role > SYNC_ACTIVE)
		return session_reject(
			s, ERR_PROTO, WIRE_BYE_PROTO, "unknown role %u", h->role);
	if (n->role == SYNC_ACTIVE && h->epoch > epoch_current(&n->epoch.line)) {
		met_later(n, h->epoch);
		node_note_error(
			p, "the peer has seen a later epoch: this side is stale");
		return session_reject(s, ERR_PEER, WIRE_BYE_EPOCH,
			"%s has seen epoch %" PRIu64
			", the active side %s is at %" PRIu64,
			p->conf->name, h->epoch, n->conf.name,
			epoch_current(&n->epoch.line));
	}
	if (h->role == SYNC_ACTIVE && n->role == SYNC_ACTIVE &&
		h->epoch == epoch_current(&n->epoch.line)) {
		node_note_error(p, "both sides are active: make one of them a standby");
		return session_reject(s, ERR_PEER, WIRE_BYE_ROLE,
			"both %s and %s are active: nothing is exchanged until one of "
			"them is "
			"made a standby",
			n->conf.name, p->conf->name);
	}
	if (h->role == SYNC_ACTIVE && h->epoch < epoch_current(&n->epoch.line)) {
		node_note_error(p, "the peer is active in an old epoch");
		return session_reject(s, ERR_PEER, WIRE_BYE_EPOCH,
			"%s is active in epoch %" PRIu64 ", but %s has seen %" PRIu64,
			p->conf->name, h->epoch, n->conf.name,
			epoch_current(&n->epoch.line));
	}
	return 0;
}

static void
up(void *arg, struct session *s)
{
	struct node *n = arg;
	struct peer *p = duty_peer(n, s);

	p->session = s;
	p->greeted = true;
	p->error[0] = '\0';
	if (n->role == SYNC_ACTIVE)
		send_start(p);
	node_publish(n);
}

static void
down(void *arg, struct session *s, int code, const char *text)
{
	struct node *n = arg;
	struct peer *p = duty_peer(n, s);

	if (p->session != s)
		return;
	if (code != 0)
		node_note_error(
			p, "%s", text != NULL && text[0] ? text : err_text(code));
	p->session = NULL;
	send_stop(p);
	recv_stop(p);
	node_publish(n);
}

static void
drained(void *arg, struct session *s)
{
	struct peer *p = duty_peer(arg, s);

	if (p->session == s && p->sending)
		send_pump(p);
	ask_pump(p->node);
}

static uint64_t
journal_last(void *arg)
{
	struct node *n = arg;

	return n->journal_last;
}

const struct session_ops duty_ops = {
	.hello = hello,
	.judge = judge,
	.up = up,
	.down = down,
	.drained = drained,
	.no_room = recv_no_room,
	.journal_last = journal_last,
	.handlers = {
		[WIRE_START] = recv_on_start,
		[WIRE_BATCH] = recv_on_batch,
		[WIRE_BODY] = recv_on_body,
		[WIRE_GONE] = recv_on_gone,
		[WIRE_NEED] = body_on_need,
		[WIRE_ACK] = send_on_ack,
		[WIRE_SUMS] = ask_on_sums,
		[WIRE_DIFF] = compare_on_diff,
		[WIRE_LIST] = ask_on_list,
		[WIRE_RECORDS] = compare_on_records,
		[WIRE_QUARANTINE] = compare_on_quarantine,
		[WIRE_VERIFY] = prove_on_verify,
		[WIRE_VERIFIED] = prove_on_verified,
		[WIRE_WANT] = confirm_on_want,
		[WIRE_CONFIRM] = confirm_on_confirm,
	},
};
