/*
 * status.c - status for people: its words may change.
 */
#include "fs/status.h"
#include "fs/status_priv.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

static void
size_text(struct buf *out, uint64_t bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	double v = (double)bytes;
	unsigned u = 0;

	while (v >= 1024 && u < 4) {
		v /= 1024;
		u++;
	}
	buf_printf(out, u == 0 ? "%.0f %s" : "%.1f %s", v, units[u]);
}

static void
time_text(struct buf *out, uint64_t s)
{
	if (s >= 86400)
		buf_printf(
			out, "%" PRIu64 "d %" PRIu64 "h", s / 86400, s % 86400 / 3600);
	else if (s >= 3600)
		buf_printf(out, "%" PRIu64 "h %" PRIu64 "m", s / 3600, s % 3600 / 60);
	else if (s >= 60)
		buf_printf(out, "%" PRIu64 "m %" PRIu64 "s", s / 60, s % 60);
	else
		buf_printf(out, "%" PRIu64 "s", s);
}

const char *
status_role(enum sync_role role)
{
	return role == SYNC_ACTIVE ? "active" : "standby";
}

bool
status_catching_up(const struct sync_peer_facts *p)
{
	return p->mailboxes_total > 0 || p->messages_total > 0;
}

static void
peer_text(const struct sync_peer_facts *p, struct buf *out)
{
	buf_printf(out,
		"peer %s at %s: %s, sent %" PRIu64 ", received %" PRIu64
		", flushed %" PRIu64 ", applied %" PRIu64 ", lag %" PRIu64
		" ms, %" PRIu64 " batches\n",
		p->name, p->address[0] != '\0' ? p->address : "(never dialled)",
		p->state, p->sent, p->received, p->flushed, p->applied, p->lag_ms,
		p->lag_seqs);
	if (status_catching_up(p)) {
		buf_printf(out,
			"    catching up: %" PRIu64 " of %" PRIu64
			" mailboxes, %" PRIu64 " of %" PRIu64 " messages, ",
			p->mailboxes_done, p->mailboxes_total, p->messages_done,
			p->messages_total);
		size_text(out, p->bytes_done);
		buf_printf(out, ", ");
		size_text(out, p->bytes_per_s);
		buf_printf(out, "/s, ");
		time_text(out, p->left_s);
		buf_printf(out, " left\n");
	}
	if (p->error[0] != '\0')
		buf_printf(out, "    last error: %s\n", p->error);
}

void
status_peers(const struct status_facts *f, struct buf *out)
{
	for (unsigned i = 0; i < f->sync->n_peers; i++)
		peer_text(&f->sync->peers[i], out);
}

/* What a peer has set aside. */
static void
peer_quarantine(const struct sync_facts *s, unsigned p, struct buf *out)
{
	uint64_t left = s->peers[p].n_quarantined;

	for (unsigned i = 0; i < s->n_peer_listed; i++) {
		const struct sync_quarantine_facts *q = &s->peer_quarantined[i];
		if (q->peer != p)
			continue;
		buf_printf(out, "at %s: %s", s->peers[p].name, q->dir);
		if (q->uid != 0)
			buf_printf(out, " uid %u", q->uid);
		buf_printf(out, ": %s: %s\n", q->check, q->text);
		left -= left > 0;
	}
	if (left > 0)
		buf_printf(
			out, "at %s: and %" PRIu64 " more\n", s->peers[p].name, left);
}

void
status_quarantine(const struct status_facts *f, struct buf *out)
{
	const struct sync_facts *s = f->sync;

	for (unsigned i = 0; i < s->n_listed; i++) {
		const struct sync_quarantine_facts *q = &s->quarantined[i];
		buf_printf(out, "%s", q->dir);
		if (q->uid != 0)
			buf_printf(out, " uid %u", q->uid);
		buf_printf(out, ": %s: %s\n", q->check, q->text);
	}
	if (s->n_quarantined > s->n_listed)
		buf_printf(out, "and %u more\n", s->n_quarantined - s->n_listed);
	for (unsigned p = 0; p < s->n_peers; p++)
		peer_quarantine(s, p, out);
}

void
status_text(const struct status_facts *f, struct buf *out)
{
	const struct sync_facts *s = f->sync;
	uint64_t theirs = 0;

	buf_printf(out, "%s: %s, gate %s, epoch %" PRIu64 ", run %" PRIu64 "%s\n",
		f->name, status_role(s->role), f->gate, s->position.epoch,
		s->position.run, f->clean ? ", clean" : "");
	buf_printf(out, "mounted at %s over %s for ", f->mountpoint, f->spool);
	time_text(out, f->now > f->started ? (f->now - f->started) / 1000000000 : 0);
	if (strcmp(f->transport, "dev") != 0)
		buf_printf(out, " by %s", f->transport);
	buf_printf(
		out, ", supervisor %d, server %d", (int)f->supervisor, (int)f->server);
	if (f->restarts > 0)
		buf_printf(out, ", %" PRIu64 " restarts", f->restarts);
	buf_printf(out, "\njournal: %" PRIu64 " to %" PRIu64 ", ", s->journal_first,
		s->position.seq);
	size_text(out, s->journal_bytes);
	buf_printf(out, ", %" PRIu64 " queued; %" PRIu64 " mailboxes\n", s->queued,
		s->mailboxes);
	if (s->role == SYNC_STANDBY)
		buf_printf(out,
			"of the active's journal: run %" PRIu64 ", received %" PRIu64
			", applied %" PRIu64 ", %" PRIu64 " waiting\n",
			s->held_run, s->held_received, s->held_applied,
			s->replay_pending);
	if (s->stale[0] != '\0')
		buf_printf(out, "stale: %s\n", s->stale);
	if (s->stalled[0] != '\0')
		buf_printf(out, "stalled: %s\n", s->stalled);
	status_level_text(&s->level, f->now, out);
	status_peers(f, out);
	for (unsigned i = 0; i < s->n_peers; i++)
		theirs += s->peers[i].n_quarantined;
	if (s->n_quarantined > 0 || theirs > 0) {
		buf_printf(out, "quarantined: %u", s->n_quarantined);
		if (theirs > 0)
			buf_printf(out, ", at peers: %" PRIu64, theirs);
		buf_printf(out, "\n");
		status_quarantine(f, out);
	}
}
