/*
 * How it works: three renderers over the same facts. Text is for people and may change; the
 * names in JSON and metrics may not.
 */
#include "fs/status.h"
#include "fs/status_level.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* Length of the UTF-8 character at p, 0 if it is none (overlong, surrogate, too high). */
static size_t
utf8_len(const unsigned char *p)
{
	size_t n = p[0] < 0x80 ? 1 : 0;
	unsigned char lo = 0x80, hi = 0xbf;

	if (p[0] >= 0xc2 && p[0] < 0xf5)
		n = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
	if (p[0] == 0xe0)
		lo = 0xa0;
	else if (p[0] == 0xed)
		hi = 0x9f;
	else if (p[0] == 0xf0)
		lo = 0x90;
	else if (p[0] == 0xf4)
		hi = 0x8f;
	for (size_t i = 1; i < n; i++) {
		if (p[i] < lo || p[i] > hi)
			return 0;
		lo = 0x80;
		hi = 0xbf;
	}
	return n;
}

static void
quote(struct buf *out, const char *text)
{
	const unsigned char *p = (const unsigned char *)text;

	buf_put(out, "\"", 1);
	while (*p != '\0') {
		size_t n = utf8_len(p);
		if (n == 0) {
			buf_put(out, "\xef\xbf\xbd", 3);
			n = 1;
		} else if (*p == '"' || *p == '\\') {
			buf_printf(out, "\\%c", *p);
		} else if (*p < 0x20 || *p == 0x7f) {
			buf_printf(out, "\\u%04x", *p);
		} else {
			buf_put(out, p, n);
		}
		p += n;
	}
	buf_put(out, "\"", 1);
}

/* A label's value: Prometheus knows three escapes and wants UTF-8. */
static void
label(struct buf *out, const char *text)
{
	const unsigned char *p = (const unsigned char *)text;

	buf_put(out, "\"", 1);
	while (*p != '\0') {
		size_t n = utf8_len(p);
		if (n == 0)
			buf_put(out, "\xef\xbf\xbd", 3);
		else if (*p == '"' || *p == '\\')
			buf_printf(out, "\\%c", *p);
		else if (*p == '\n')
			buf_put(out, "\\n", 2);
		else
			buf_put(out, p, n);
		p += n == 0 ? 1 : n;
	}
	buf_put(out, "\"", 1);
}

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

static const char *
role_word(enum sync_role role)
{
	return role == SYNC_ACTIVE ? "active" : "standby";
}

static bool
catching_up(const struct sync_peer_facts *p)
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
	if (catching_up(p)) {
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
		f->name, role_word(s->role), f->gate, s->position.epoch,
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
	if (s->outdated[0] != '\0')
		buf_printf(out, "stale: %s\n", s->outdated);
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

/* "name": value, with a comma in front unless it is the first of its object. */
static void
json_number(struct buf *out, const char *name, uint64_t v)
{
	const char *sep = out->len > 0 && out->data[out->len - 1] == '{' ? "" : ",";

	buf_printf(out, "%s\"%s\":%" PRIu64, sep, name, v);
}

static void
json_text(struct buf *out, const char *name, const char *v)
{
	const char *sep = out->len > 0 && out->data[out->len - 1] == '{' ? "" : ",";

	buf_printf(out, "%s\"%s\":", sep, name);
	quote(out, v);
}

static void
json_bool(struct buf *out, const char *name, bool v)
{
	buf_printf(out, ",\"%s\":%s", name, v ? "true" : "false");
}

static void
json_peer(const struct sync_peer_facts *p, struct buf *out)
{
	buf_printf(out, "{");
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
	buf_printf(out, ",\"catchup\":");
	if (catching_up(p)) {
		buf_printf(out, "{");
		json_number(out, "mailboxes_done", p->mailboxes_done);
		json_number(out, "mailboxes_total", p->mailboxes_total);
		json_number(out, "messages_done", p->messages_done);
		json_number(out, "messages_total", p->messages_total);
		json_number(out, "bytes_done", p->bytes_done);
		json_number(out, "bytes_per_s", p->bytes_per_s);
		json_number(out, "left_s", p->left_s);
		buf_printf(out, "}");
	} else {
		buf_printf(out, "null");
	}
	buf_printf(out, ",\"wire\":{");
	json_number(out, "sent", p->wire_sent);
	json_number(out, "got", p->wire_got);
	json_number(out, "raw_sent", p->raw_sent);
	json_number(out, "raw_got", p->raw_got);
	buf_printf(out, "}}");
}

static void
json_quarantine(const struct sync_facts *s, struct buf *out)
{
	json_number(out, "quarantined", s->n_quarantined);
	buf_printf(out, ",\"quarantine\":[");
	for (unsigned i = 0; i < s->n_listed; i++) {
		const struct sync_quarantine_facts *q = &s->quarantined[i];
		buf_printf(out, "%s{", i > 0 ? "," : "");
		json_text(out, "mailbox", q->dir);
		json_number(out, "uid", q->uid);
		json_text(out, "check", q->check);
		json_text(out, "text", q->text);
		json_number(out, "since", q->since / 1000000000);
		buf_printf(out, "}");
	}
	buf_printf(out, "],\"peer_quarantine\":[");
	for (unsigned i = 0; i < s->n_peer_listed; i++) {
		const struct sync_quarantine_facts *q = &s->peer_quarantined[i];
		buf_printf(out, "%s{", i > 0 ? "," : "");
		json_text(out, "peer", s->peers[q->peer].name);
		json_text(out, "mailbox", q->dir);
		json_number(out, "uid", q->uid);
		json_text(out, "check", q->check);
		json_text(out, "text", q->text);
		buf_printf(out, "}");
	}
	buf_printf(out, "]");
}

void
status_json(const struct status_facts *f, struct buf *out)
{
	const struct sync_facts *s = f->sync;

	buf_printf(out, "{");
	json_text(out, "name", f->name);
	json_text(out, "role", role_word(s->role));
	json_text(out, "gate", f->gate);
	json_number(out, "epoch", s->position.epoch);
	json_number(out, "run", s->position.run);
	json_bool(out, "clean", f->clean);
	json_text(out, "mountpoint", f->mountpoint);
	json_text(out, "spool", f->spool);
	json_number(out, "started", f->started / 1000000000);
	json_number(out, "restarts", f->restarts);
	json_text(out, "transport", f->transport);
	buf_printf(out, ",\"pids\":{\"supervisor\":%d,\"server\":%d}",
		(int)f->supervisor, (int)f->server);
	buf_printf(out, ",\"journal\":{");
	json_number(out, "first", s->journal_first);
	json_number(out, "last", s->position.seq);
	json_number(out, "bytes", s->journal_bytes);
	json_number(out, "queued", s->queued);
	buf_printf(out, "},\"held\":{");
	json_number(out, "run", s->held_run);
	json_number(out, "received", s->held_received);
	json_number(out, "applied", s->held_applied);
	json_number(out, "pending", s->replay_pending);
	buf_printf(out, "}");
	json_text(out, "stalled", s->stalled);
	json_number(out, "later_epoch", s->later_epoch);
	json_text(out, "stale", s->outdated);
	json_number(out, "mailboxes", s->mailboxes);
	buf_printf(out, ",\"sent\":{");
	json_number(out, "batches", s->batches);
	json_number(out, "bodies", s->bodies);
	json_number(out, "body_bytes", s->body_bytes);
	buf_printf(out, "}");
	json_number(out, "applied_batches", s->applied_batches);
	status_level_json(&s->level, out);
	buf_printf(out, ",\"peers\":[");
	for (unsigned i = 0; i < s->n_peers; i++) {
		if (i > 0)
			buf_printf(out, ",");
		json_peer(&s->peers[i], out);
	}
	buf_printf(out, "]");
	json_quarantine(s, out);
	buf_printf(out, "}\n");
}

/* A metric without labels beside the slot's name. */
static void
metric(const struct status_facts *f, struct buf *out, const char *name,
	const char *type, const char *help, uint64_t v)
{
	buf_printf(out,
		"# HELP twinspool_%s %s\n# TYPE twinspool_%s %s\ntwinspool_%s{slot=",
		name, help, name, type, name);
	label(out, f->name);
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
	{ "peer_quarantined", "gauge", "Mailboxes that the peer has set aside.",
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

			buf_printf(out, "twinspool_%s{slot=", name);
			label(out, f->name);
			buf_printf(out, ",peer=");
			label(out, s->peers[i].name);
			buf_printf(out, ",message=\"%s\"} %" PRIu64 "\n", sent->kind,
				bytes ? sent->bytes : sent->messages);
		}
}

static void
change_line(const struct status_facts *f, const struct sync_peer_facts *p,
	const char *name, const char *change, uint64_t v, struct buf *out)
{
	buf_printf(out, "twinspool_%s{slot=", name);
	label(out, f->name);
	buf_printf(out, ",peer=");
	label(out, p->name);
	buf_printf(out, ",change=\"%s\"} %" PRIu64 "\n", change, v);
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
			change_line(f, p, name, sync_change_names[k],
				bytes ? p->sent_changes[k].bytes : p->sent_changes[k].n,
				out);
		if (bytes)
			change_line(f, p, name, "other", p->sent_other, out);
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
			buf_printf(out, "twinspool_%s{slot=", pm->name);
			label(out, f->name);
			buf_printf(out, ",peer=");
			label(out, s->peers[i].name);
			buf_printf(out, "} %" PRIu64 "\n", v);
		}
	}
	buf_printf(out, "# HELP twinspool_peer_connected Whether a session is up.\n"
			"# TYPE twinspool_peer_connected gauge\n");
	for (unsigned i = 0; i < s->n_peers; i++) {
		buf_printf(out, "twinspool_peer_connected{slot=");
		label(out, f->name);
		buf_printf(out, ",peer=");
		label(out, s->peers[i].name);
		buf_printf(out, "} %d\n", s->peers[i].connected);
	}
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
	metric(f, out, "quarantined", "gauge", "Mailboxes set aside.",
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
	label(&slot, f->name);
	status_level_metrics(&s->level, buf_str(&slot), out);
	buf_fini(&slot);
}
