/*
 * status_json.c - status for programs: its names may not change.
 */
#include "fs/json.h"
#include "fs/status.h"
#include "fs/status_priv.h"

static void
json_peer(const struct sync_peer_facts *p, struct buf *out)
{
	json_object(out, NULL);
	json_text(out, "name", p->name);
	json_text(out, "address", p->address);
	json_text(out, "state", p->state);
	json_bool(out, "connected", p->connected);
	json_text(out, "error", p->error);
	json_number(out, "sent", p->sent);
	json_number(out, "received", p->received);
	json_number(out, "flushed", p->flushed);
	json_number(out, "applied", p->applied);
	json_number(out, "lag_ms", p->lag_ms);
	json_number(out, "lag_batches", p->lag_seqs);
	json_number(out, "quarantined", p->n_quarantined);
	if (!status_catching_up(p)) {
		json_null(out, "catchup");
	} else {
		json_object(out, "catchup");
		json_number(out, "mailboxes_done", p->mailboxes_done);
		json_number(out, "mailboxes_total", p->mailboxes_total);
		json_number(out, "messages_done", p->messages_done);
		json_number(out, "messages_total", p->messages_total);
		json_number(out, "bytes_done", p->bytes_done);
		json_number(out, "bytes_per_s", p->bytes_per_s);
		json_number(out, "left_s", p->left_s);
		json_end_object(out);
	}
	json_object(out, "wire");
	json_number(out, "sent", p->wire_sent);
	json_number(out, "got", p->wire_got);
	json_number(out, "raw_sent", p->raw_sent);
	json_number(out, "raw_got", p->raw_got);
	json_end_object(out);
	json_end_object(out);
}

static void
json_quarantine(const struct sync_facts *s, struct buf *out)
{
	json_number(out, "quarantined", s->n_quarantined);
	json_list(out, "quarantine");
	for (unsigned i = 0; i < s->n_listed; i++) {
		const struct sync_quarantine_facts *q = &s->quarantined[i];
		json_object(out, NULL);
		json_text(out, "mailbox", q->dir);
		json_number(out, "uid", q->uid);
		json_text(out, "check", q->check);
		json_text(out, "text", q->text);
		json_number(out, "since", q->since / 1000000000);
		json_end_object(out);
	}
	json_end_list(out);
	json_list(out, "peer_quarantine");
	for (unsigned i = 0; i < s->n_peer_listed; i++) {
		const struct sync_quarantine_facts *q = &s->peer_quarantined[i];
		json_object(out, NULL);
		json_text(out, "peer", s->peers[q->peer].name);
		json_text(out, "mailbox", q->dir);
		json_number(out, "uid", q->uid);
		json_text(out, "check", q->check);
		json_text(out, "text", q->text);
		json_end_object(out);
	}
	json_end_list(out);
}

void
status_json(const struct status_facts *f, struct buf *out)
{
	const struct sync_facts *s = f->sync;

	json_object(out, NULL);
	json_text(out, "name", f->name);
	json_text(out, "role", status_role(s->role));
	json_text(out, "gate", f->gate);
	json_number(out, "epoch", s->position.epoch);
	json_number(out, "run", s->position.run);
	json_bool(out, "clean", f->clean);
	json_text(out, "mountpoint", f->mountpoint);
	json_text(out, "spool", f->spool);
	json_number(out, "started", f->started / 1000000000);
	json_number(out, "restarts", f->restarts);
	json_text(out, "transport", f->transport);
	json_object(out, "pids");
	json_number(out, "supervisor", (uint64_t)f->supervisor);
	json_number(out, "server", (uint64_t)f->server);
	json_end_object(out);
	json_object(out, "journal");
	json_number(out, "first", s->journal_first);
	json_number(out, "last", s->position.seq);
	json_number(out, "bytes", s->journal_bytes);
	json_number(out, "queued", s->queued);
	json_end_object(out);
	json_object(out, "held");
	json_number(out, "run", s->held_run);
	json_number(out, "received", s->held_received);
	json_number(out, "applied", s->held_applied);
	json_number(out, "pending", s->replay_pending);
	json_end_object(out);
	json_text(out, "stalled", s->stalled);
	json_number(out, "later_epoch", s->later_epoch);
	json_text(out, "stale", s->stale);
	json_number(out, "mailboxes", s->mailboxes);
	json_object(out, "sent");
	json_number(out, "batches", s->batches);
	json_number(out, "bodies", s->bodies);
	json_number(out, "body_bytes", s->body_bytes);
	json_end_object(out);
	json_number(out, "applied_batches", s->applied_batches);
	status_level_json(&s->level, out);
	json_list(out, "peers");
	for (unsigned i = 0; i < s->n_peers; i++)
		json_peer(&s->peers[i], out);
	json_end_list(out);
	json_quarantine(s, out);
	json_end_object(out);
	buf_printf(out, "\n");
}
