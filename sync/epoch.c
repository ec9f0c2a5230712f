/*
 * How two lines compare. Epochs with the same number and mark are the same epoch; the highest
 * such one is where the lines were last together. What a line has in it ends at the base of its
 * next entry, or at the last position held if there is none. The lesser of the two ends is the
 * fork: up to it both hold the same. Who holds nothing beyond the fork lacks, and is not lacked.
 *
 *   we beyond the fork, they beyond it     relation
 *   yes  yes                               FORKED
 *   yes  no                                AHEAD
 *   no   yes                               BEHIND
 *   no   no                                SAME, or whose last epoch is higher (then whose mark
 *                                          is) is ahead: two promotions, and nothing written
 *
 * Stored as one value, role and line together, so that they never disagree after a crash.
 */
#include "sync/epoch.h"
#include "meta/base/cur.h"
#include "meta/base/err.h"
#include "meta/base/log.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

enum { LINE_VERSION = 1 };

static const char key[] = "epochs";

const char *
epoch_relation_text(enum epoch_relation r)
{
	static const char *const texts[] = { "same", "behind", "ahead", "forked",
		"unrelated" };

	return (unsigned)r < 5 ? texts[r] : "unknown";
}

uint64_t
epoch_current(const struct epoch_line *l)
{
	return l->n > 0 ? l->e[l->n - 1].epoch : 0;
}

/* ---- comparing ---- */

/* The last entries that both have; false if there is none. */
static bool
last_common(const struct epoch_line *a, const struct epoch_line *b, unsigned *i_out,
	unsigned *k_out)
{
	unsigned i = a->n, k = b->n;

	while (i > 0 && k > 0) {
		const struct epoch_entry *x = &a->e[i - 1], *y = &b->e[k - 1];
		if (x->epoch == y->epoch && x->mark == y->mark) {
			*i_out = i - 1;
			*k_out = k - 1;
			return true;
		}
		if (x->epoch >= y->epoch)
			i--;
		if (y->epoch >= x->epoch)
			k--;
	}
	return false;
}

/* Where a line leaves entry i. */
static struct pos
end_of(const struct epoch_line *l, unsigned i, struct pos last)
{
	struct pos next = i + 1 < l->n ? l->e[i + 1].base : last;

	return pos_cmp(last, next) < 0 ? last : next;
}

static enum epoch_relation
by_last_entry(const struct epoch_line *ours, const struct epoch_line *theirs)
{
	const struct epoch_entry *a = &ours->e[ours->n - 1];
	const struct epoch_entry *b = &theirs->e[theirs->n - 1];

	if (a->epoch != b->epoch)
		return a->epoch < b->epoch ? EPOCH_BEHIND : EPOCH_AHEAD;
	if (a->mark != b->mark)
		return a->mark < b->mark ? EPOCH_BEHIND : EPOCH_AHEAD;
	return EPOCH_SAME;
}

enum epoch_relation
epoch_compare(const struct epoch_line *ours, struct pos our_last,
	const struct epoch_line *theirs, struct pos their_last, struct pos *fork_out)
{
	struct pos fork = POS_NONE, a, b;
	unsigned i, k;

	if (fork_out != NULL)
		*fork_out = POS_NONE;
	if (ours->n == 0 || theirs->n == 0)
		return ours->n == theirs->n ? EPOCH_SAME
		       : ours->n == 0       ? EPOCH_BEHIND
					    : EPOCH_AHEAD;
	if (!last_common(ours, theirs, &i, &k))
		return EPOCH_UNRELATED;
	a = end_of(ours, i, our_last);
	b = end_of(theirs, k, their_last);
	fork = pos_cmp(a, b) < 0 ? a : b;
	if (fork_out != NULL)
		*fork_out = fork;
	bool we = pos_cmp(our_last, fork) > 0, they = pos_cmp(their_last, fork) > 0;
	if (we != they)
		return we ? EPOCH_AHEAD : EPOCH_BEHIND;
	return we ? EPOCH_FORKED : by_last_entry(ours, theirs);
}

/* ---- bytes ---- */

int
epoch_encode(const struct epoch_line *l, struct buf *out)
{
	wr_u8(out, LINE_VERSION);
	wr_varint(out, l->n);
	for (unsigned i = 0; i < l->n; i++) {
		const struct epoch_entry *e = &l->e[i];
		wr_varint(out, e->epoch);
		wr_be64(out, e->mark);
		wr_varint(out, e->base.epoch);
		wr_varint(out, e->base.run);
		wr_varint(out, e->base.seq);
		wr_blob(out, e->node, strlen(e->node));
	}
	return buf_ok(out);
}

static void
decode_entry(struct rd *r, uint64_t above, struct epoch_entry *e)
{
	size_t n;

	e->epoch = rd_varint_max(r, INT64_MAX);
	e->mark = rd_be64(r);
	e->base.epoch = rd_varint_max(r, INT64_MAX);
	e->base.run = rd_varint_max(r, INT64_MAX);
	e->base.seq = rd_varint_max(r, INT64_MAX);
	const uint8_t *node = rd_blob(r, EPOCH_NODE_MAX - 1, &n);
	if (node == NULL || memchr(node, '\0', n) != NULL || e->epoch <= above ||
		e->base.epoch >= e->epoch) {
		r->failed = true;
		return;
	}
	memcpy(e->node, node, n);
}

int
epoch_decode(const void *p, size_t n, struct epoch_line *out)
{
	struct rd r = rd_over(p, n);
	uint64_t above = 0;

	memset(out, 0, sizeof(*out));
	if (rd_u8(&r) != LINE_VERSION)
		return rd_ok(&r) ? ERR_VERSION : ERR_MANGLED;
	out->n = (unsigned)rd_varint_max(&r, EPOCH_HISTORY_MAX);
	for (unsigned i = 0; i < out->n && rd_ok(&r); i++) {
		decode_entry(&r, above, &out->e[i]);
		above = out->e[i].epoch;
	}
	if (rd_done(&r))
		return 0;
	memset(out, 0, sizeof(*out));
	return ERR_MANGLED;
}

/* ---- what is stored ---- */

int
epoch_load(struct store *s, struct epoch *out)
{
	struct buf b = BUF_INIT;
	int rc = store_get_blob(s, key, &b);

	if (rc == 0 && (b.len < 1 || b.data[0] > EPOCH_ACTIVE))
		rc = ERR_MANGLED;
	if (rc == 0) {
		out->role = (enum epoch_role)b.data[0];
		rc = epoch_decode(b.data + 1, b.len - 1, &out->line);
	}
	if (rc == ERR_MANGLED || rc == ERR_VERSION) {
		log_err("the stored history of epochs cannot be read: put state.db "
			"back "
			"from a copy, or join this node anew as a standby");
		rc = rc == ERR_VERSION ? rc : ERR_STORE;
	}
	buf_fini(&b);
	return rc;
}

static int
save(struct store *s, const struct epoch *e)
{
	struct buf b = BUF_INIT;
	int rc;

	wr_u8(&b, (uint8_t)e->role);
	if ((rc = epoch_encode(&e->line, &b)) == 0)
		rc = store_put_blob(s, key, b.data, b.len);
	buf_fini(&b);
	return rc;
}

static int
begin_epoch(struct epoch *e, const char *node, struct pos base, uint64_t number)
{
	struct epoch_line *l = &e->line;

	if (strlen(node) >= EPOCH_NODE_MAX)
		return ERR_LIMIT;
	if (base.epoch >= number)
		return ERR_USAGE;
	if (l->n == EPOCH_HISTORY_MAX)
		memmove(&l->e[0], &l->e[1], --l->n * sizeof(l->e[0]));
	struct epoch_entry *x = &l->e[l->n++];
	memset(x, 0, sizeof(*x));
	x->epoch = number;
	x->base = base;
	snprintf(x->node, sizeof(x->node), "%s", node);
	e->role = EPOCH_ACTIVE;
	return getrandom(&x->mark, sizeof(x->mark), 0) == sizeof(x->mark) ? 0 : ERR_IO;
}

int
epoch_found(struct store *s, enum epoch_role role, const char *node, struct epoch *out)
{
	struct epoch e = { .role = role };
	int rc = 0;

	if (role == EPOCH_ACTIVE)
		rc = begin_epoch(&e, node, POS_NONE, 1);
	if (rc == 0 && (rc = save(s, &e)) == 0)
		*out = e;
	return rc;
}

int
epoch_raise(struct store *s, struct epoch *e, const char *node, struct pos base,
	uint64_t min_epoch)
{
	struct epoch next = *e;
	uint64_t top = epoch_current(&e->line);
	int rc =
		begin_epoch(&next, node, base, (top > min_epoch ? top : min_epoch) + 1);

	if (rc == 0 && (rc = save(s, &next)) == 0) {
		*e = next;
		log_info("epoch begins epoch=%" PRIu64 " node=%s base=" POS_FMT,
			epoch_current(&e->line), node, POS_ARG(base));
	}
	return rc;
}

int
epoch_follow(struct store *s, struct epoch *e, const struct epoch_line *line)
{
	struct epoch next = { .role = EPOCH_STANDBY, .line = *line };
	int rc = save(s, &next);

	if (rc == 0)
		*e = next;
	return rc;
}
