/*
 * status_metrics.c - status as Prometheus text: its names may not change.
 */
#include "fs/escape.h"
#include "fs/status.h"
#include "fs/status_priv.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

/* A metric without labels beside the slot's name. */
static void
metric(const struct status_facts *f, struct buf *out, const char *name,
	const char *type, const char *help, uint64_t v)
{
	buf_printf(out,
		"# HELP twinspool_%s %s\n# TYPE twinspool_%s %s\ntwinspool_%s{slot=",
		name, help, name, type, name);
	escape_label(out, f->name);
	buf_printf(out, "} %" PRIu64 "\n", v);
}

/* A line of one of a peer's metrics; with a label more, if key is not NULL. */
static void
peer_line(const struct status_facts *f, const struct sync_peer_facts *p,
	const char *name, const char *key, const char *value, uint64_t v,
	struct buf *out)
{
	buf_printf(out, "twinspool_%s{slot=", name);
	escape_label(out, f->name);
	buf_printf(out, ",peer=");
	escape_label(out, p->name);
	if (key != NULL)
		buf_printf(out, ",%s=\"%s\"", key, value);
	buf_printf(out, "} %" PRIu64 "\n", v);
}

/* One metric of every peer: the field stands at offset in struct sync_peer_facts. */
static const struct peer_metric {
	const char *name, *type, *help;
	size_t offset;
} peer_metrics[] = {
#define AT(field) offsetof(struct sync_peer_facts, field)
	{ "peer_sent_seq", "gauge", "Last batch sent to the peer.", AT(sent) },
	{ "peer_received_seq", "gauge", "Last batch in the peer's memory.",
		AT(received) },
	{ "peer_flushed_seq", "gauge", "Last batch on the peer's disk.", AT(flushed) },
	{ "peer_applied_seq", "gauge", "Last batch visible on the peer.", AT(applied) },
	{ "peer_lag_milliseconds", "gauge", "Age of the oldest batch not applied.",
		AT(lag_ms) },
	{ "peer_quarantined", "gauge", "Mailboxes in quarantine at the peer.",
		AT(n_quarantined) },
	{ "peer_lag_batches", "gauge", "Batches not applied.", AT(lag_seqs) },
	{ "peer_wire_sent_bytes_total", "counter", "Bytes sent, as they travel.",
		AT(wire_sent) },
	{ "peer_wire_received_bytes_total", "counter",
		"Bytes received, as they travel.", AT(wire_got) },
	{ "peer_raw_sent_bytes_total", "counter", "Bytes sent, before compression.",
		AT(raw_sent) },
	{ "peer_raw_received_bytes_total", "counter",
		"Bytes received, after inflation.", AT(raw_got) },
#undef AT
};

/* What was sent to each peer by kind of message: how many, and bytes before compression. */
static void
metrics_of_messages(const struct status_facts *f, bool bytes, struct buf *out)
{
	const struct sync_facts *s = f->sync;
	const char *name =
		bytes ? "peer_sent_message_bytes_total" : "peer_sent_messages_total";

	buf_printf(out,
		"# HELP twinspool_%s %s by kind.\n# TYPE twinspool_%s counter\n", name,
		bytes ? "Bytes of messages, before compression," : "Messages sent,",
		name);
	for (unsigned i = 0; i < s->n_peers; i++)
		for (unsigned k = 0; k < s->peers[i].n_sent_kinds; k++) {
			const struct sync_sent_facts *sent = &s->peers[i].sent_kinds[k];

			peer_line(f, &s->peers[i], name, "message", sent->kind,
				bytes ? sent->bytes : sent->messages, out);
		}
}

/* The same by what they say; bytes are those that left, and add up to wire_sent. */
static void
metrics_of_changes(const struct status_facts *f, bool bytes, struct buf *out)
{
	const struct sync_facts *s = f->sync;
	const char *name =
		bytes ? "peer_sent_change_bytes_total" : "peer_sent_changes_total";

	buf_printf(out,
		"# HELP twinspool_%s %s by kind.\n# TYPE twinspool_%s counter\n", name,
		bytes ? "Bytes of changes, as they travel," : "Changes sent,", name);
	for (unsigned i = 0; i < s->n_peers; i++) {
		const struct sync_peer_facts *p = &s->peers[i];

		for (unsigned k = 0; k < SYNC_CHANGES; k++)
			peer_line(f, p, name, "change", sync_change_names[k],
				bytes ? p->sent_changes[k].bytes : p->sent_changes[k].n,
				out);
		if (bytes)
			peer_line(f, p, name, "change", "other", p->sent_other, out);
	}
}

static void
metrics_of_peers(const struct status_facts *f, struct buf *out)
{
	const struct sync_facts *s = f->sync;

	for (size_t m = 0; m < sizeof(peer_metrics) / sizeof(peer_metrics[0]); m++) {
		const struct peer_metric *pm = &peer_metrics[m];
		buf_printf(out, "# HELP twinspool_%s %s\n# TYPE twinspool_%s %s\n",
			pm->name, pm->help, pm->name, pm->type);
		for (unsigned i = 0; i < s->n_peers; i++) {
			uint64_t v;
			memcpy(&v, (const char *)&s->peers[i] + pm->offset, sizeof(v));
			peer_line(f, &s->peers[i], pm->name, NULL, NULL, v, out);
		}
	}
	buf_printf(out, "# HELP twinspool_peer_connected Whether a session is up.\n"
			"# TYPE twinspool_peer_connected gauge\n");
	for (unsigned i = 0; i < s->n_peers; i++)
		peer_line(f, &s->peers[i], "peer_connected", NULL, NULL,
			s->peers[i].connected, out);
	metrics_of_messages(f, false, out);
	metrics_of_messages(f, true, out);
	metrics_of_changes(f, false, out);
	metrics_of_changes(f, true, out);
}

void
status_metrics(const struct status_facts *f, struct buf *out)
{
	const struct sync_facts *s = f->sync;

	metric(f, out, "active", "gauge", "1 on the active side.",
		s->role == SYNC_ACTIVE);
	metric(f, out, "epoch", "gauge", "Promotions so far.", s->position.epoch);
	metric(f, out, "run", "gauge", "Lives of the journal in this epoch.",
		s->position.run);
	metric(f, out, "gate_open", "gauge", "1 while changes are let through.",
		strcmp(f->gate, "open") == 0);
	metric(f, out, "start_time_seconds", "gauge", "When the slot was mounted.",
		f->started / 1000000000);
	metric(f, out, "restarts_total", "counter",
		"Servers that died and were replaced.", f->restarts);
	metric(f, out, "uring", "gauge", "1 while requests come by io_uring.",
		strcmp(f->transport, "uring") == 0);
	metric(f, out, "journal_first_seq", "gauge", "Oldest batch held.",
		s->journal_first);
	metric(f, out, "journal_last_seq", "gauge", "Newest batch.", s->position.seq);
	metric(f, out, "journal_bytes", "gauge", "Size of the batches held.",
		s->journal_bytes);
	metric(f, out, "journal_queued", "gauge", "Commits not yet in the journal.",
		s->queued);
	metric(f, out, "mailboxes", "gauge", "Mailboxes known.", s->mailboxes);
	metric(f, out, "quarantined", "gauge", "Mailboxes in quarantine.",
		s->n_quarantined);
	metric(f, out, "stalled", "gauge", "1 while nothing can be applied.",
		s->stalled[0] != '\0');
	metric(f, out, "stale", "gauge", "1 once a later epoch was met.",
		s->later_epoch != 0);
	metric(f, out, "held_received_seq", "gauge",
		"Standby: last batch received of the active.", s->held_received);
	metric(f, out, "held_applied_seq", "gauge",
		"Standby: last batch applied of the active.", s->held_applied);
	metric(f, out, "replay_pending", "gauge",
		"Standby: batches waiting for replay.", s->replay_pending);
	metric(f, out, "batches_sent_total", "counter", "Batches sent.", s->batches);
	metric(f, out, "batches_applied_total", "counter", "Batches applied.",
		s->applied_batches);
	metric(f, out, "bodies_sent_total", "counter", "Message bodies sent.",
		s->bodies);
	metric(f, out, "body_bytes_sent_total", "counter",
		"Bytes of message bodies sent.", s->body_bytes);
	metrics_of_peers(f, out);
	struct buf slot = BUF_INIT;
	escape_label(&slot, f->name);
	status_level_metrics(&s->level, buf_str(&slot), out);
	buf_fini(&slot);
}
