/*
 * status_level.c - the part of status about durability, in the three forms that status has.
 */
#include "fs/json.h"
#include "fs/status_priv.h"

#include <inttypes.h>

static const char *const level_words[SYNC_LEVELS] = { "local", "received", "flushed",
	"applied" };
static const char *const kind_words[SYNC_KINDS] = { "delivery", "flags", "other" };
static const char *const state_words[] = {
	[SYNC_LEVEL_LOCAL] = "local",
	[SYNC_LEVEL_WAITING] = "waiting",
	[SYNC_LEVEL_ALONE] = "alone",
	[SYNC_LEVEL_REFUSING] = "refusing",
	[SYNC_LEVEL_FORCED] = "forced",
	[SYNC_LEVEL_FAILED] = "failed",
};
static const char *const state_texts[] = {
	[SYNC_LEVEL_LOCAL] = "",
	[SYNC_LEVEL_WAITING] = "answers wait for the peers",
	[SYNC_LEVEL_ALONE] = "ALONE, answers do not wait for a peer",
	[SYNC_LEVEL_REFUSING] = "ALONE, nothing is answered and nothing let in",
	[SYNC_LEVEL_FORCED] = "ALONE by force, answers do not wait for a peer",
	[SYNC_LEVEL_FAILED] = "this side is stale, waits fail",
};

void
status_level_text(const struct sync_level_facts *f, uint64_t now, struct buf *out)
{
	if (f->state == SYNC_LEVEL_LOCAL)
		return;
	buf_printf(out, "durability: ");
	for (unsigned k = 0; k < SYNC_KINDS; k++)
		buf_printf(out, "%s%s %s", k > 0 ? ", " : "", kind_words[k],
			level_words[f->level[k]]);
	buf_printf(out, "; %s; %u waiting", state_texts[f->state], f->waiting);
	if (f->waiting > 0)
		buf_printf(out, " for up to %" PRIu64 " ms", f->oldest_ms);
	if (f->alone_since != 0)
		buf_printf(out, "; alone for %" PRIu64 " s",
			now > f->alone_since ? (now - f->alone_since) / 1000000000 : 0);
	if (f->unconfirmed > 0)
		buf_printf(out, "; %" PRIu64 " answered without a peer so far",
			f->unconfirmed);
	buf_printf(out, "\n");
}

void
status_level_json(const struct sync_level_facts *f, struct buf *out)
{
	json_object(out, "durability");
	for (unsigned k = 0; k < SYNC_KINDS; k++)
		json_text(out, kind_words[k], level_words[f->level[k]]);
	json_text(out, "when_alone", f->refuse ? "refuse" : "continue");
	json_number(out, "timeout_ms", f->limit_ms);
	json_text(out, "state", state_words[f->state]);
	json_number(out, "waiting", f->waiting);
	json_number(out, "oldest_ms", f->oldest_ms);
	json_number(out, "alone_since", f->alone_since / 1000000000);
	json_number(out, "alone_times", f->alones);
	json_number(out, "unconfirmed", f->unconfirmed);
	json_number(out, "waits", f->waits_total);
	json_number(out, "waited_ms", f->waited_ms);
	json_end_object(out);
}

static void
metric(struct buf *out, const char *slot, const char *name, const char *type,
	const char *help, uint64_t v)
{
	buf_printf(out,
		"# HELP twinspool_durability_%s %s\n"
		"# TYPE twinspool_durability_%s %s\n"
		"twinspool_durability_%s{slot=%s} %" PRIu64 "\n",
		name, help, name, type, name, slot, v);
}

void
status_level_metrics(
	const struct sync_level_facts *f, const char *slot, struct buf *out)
{
	uint64_t n = 0;

	if (f->state == SYNC_LEVEL_LOCAL)
		return;
	metric(out, slot, "waiting", "gauge", "Answers that wait for the peers.",
		f->waiting);
	metric(out, slot, "alone", "gauge", "1 while no peer confirms.",
		f->alone_since != 0);
	metric(out, slot, "refusing", "gauge", "1 while nothing is let in for that.",
		f->state == SYNC_LEVEL_REFUSING);
	metric(out, slot, "alone_since_seconds", "gauge",
		"Since when, 0 if the peers confirm.", f->alone_since / 1000000000);
	metric(out, slot, "alone_total", "counter", "How often it came to that.",
		f->alones);
	metric(out, slot, "unconfirmed_total", "counter",
		"Waits that ended without the peers.", f->unconfirmed);
	buf_printf(out, "# HELP twinspool_durability_wait_seconds How long answers "
			"waited for the peers.\n"
			"# TYPE twinspool_durability_wait_seconds histogram\n");
	for (unsigned b = 0; b < SYNC_WAIT_BUCKETS; b++) {
		n += f->waits[b];
		buf_printf(out,
			"twinspool_durability_wait_seconds_bucket{slot=%s,le=\"", slot);
		if (b < SYNC_WAIT_BUCKETS - 1)
			buf_printf(out, "%g", (double)sync_wait_bucket_ms[b] / 1000);
		else
			buf_printf(out, "+Inf");
		buf_printf(out, "\"} %" PRIu64 "\n", n);
	}
	buf_printf(out,
		"twinspool_durability_wait_seconds_sum{slot=%s} %.3f\n"
		"twinspool_durability_wait_seconds_count{slot=%s} %" PRIu64 "\n",
		slot, (double)f->waited_ms / 1000, slot, n);
}
