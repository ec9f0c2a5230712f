/*
 * whole.c - has a row arrived with all its bodies?
 *
 * What it brings came just before it. What it names as the link of another message is in place,
 * or came with a row that is not replayed yet and will be before this one. Of anything else the
 * bytes may be on the active side's disk alone: replay asks for them, and until that row is
 * replayed nobody is told that it is here.
 */
#include "meta/ixfile.h"
#include "meta/scan.h"
#include "meta/spool.h"
#include "sync/node.h"

#include <string.h>

/* Of one row; one that names more is asked about when it is replayed. */
enum { LOOK_MAX = 1000 };

struct look {
	struct spool *sp;
	const char *dir; /* whose index is open */
	struct ixfile ix;
};

static bool
in_place(struct look *l, const char *dir, uint32_t uid, const uint8_t guid[SHA1_LEN])
{
	char name[SCAN_BODY_NAME];
	struct index_record r;
	struct stat st;
	uint32_t at;

	if (l->dir == NULL || strcmp(l->dir, dir) != 0) {
		ixfile_close(&l->ix);
		memset(&l->ix, 0, sizeof(l->ix));
		l->dir = NULL;
		if (ixfile_open(l->sp, dir, false, &l->ix) != 0)
			return false;
		l->dir = dir;
	}
	return ixfile_find(&l->ix, uid, &at) == 0 &&
	       ixfile_record(&l->ix, at, &r) == 0 &&
	       memcmp(r.guid, guid, SHA1_LEN) == 0 &&
	       spool_stat(l->sp, dir, scan_body_name(uid, name), &st) == 0 &&
	       S_ISREG(st.st_mode) && (uint64_t)st.st_size == r.size;
}

static bool
is_fresh(const struct node *n, const uint8_t guid[SHA1_LEN], struct pos done)
{
	for (unsigned i = 0; i < NODE_FRESH; i++)
		if (pos_cmp(n->fresh[i].pos, done) > 0 &&
			memcmp(n->fresh[i].guid, guid, SHA1_LEN) == 0)
			return true;
	return false;
}

void
whole_row(struct peer *p, const struct batch *b, struct pos pos)
{
	struct node *n = p->node;
	struct look l = { .sp = n->spool };
	struct inbox_facts f;
	unsigned looked = 0;

	if (p->want == 0) {
		n->lacking = pos; /* nobody looked */
		return;
	}
	inbox_facts(n->inbox, &f);
	for (size_t i = 0; i < b->n; i++) {
		const struct change_record *c = &b->changes[i].u.record;
		if (b->changes[i].kind != CHANGE_RECORD || !c->append ||
			(c->r.flags & (INDEX_FLAG_UNLINKED | INDEX_FLAG_ARCHIVED)) != 0)
			continue;
		if (c->ref_dir == NULL && b->from_dir == NULL) {
			struct fresh_body *o = &n->fresh[n->fresh_at++ % NODE_FRESH];
			memcpy(o->guid, c->r.guid, SHA1_LEN);
			o->pos = pos;
		} else if (!is_fresh(n, c->r.guid, f.done) &&
			   (++looked > LOOK_MAX ||
				   !in_place(&l,
					   c->ref_dir != NULL ? c->ref_dir
							      : b->from_dir,
					   c->ref_dir != NULL ? c->ref_uid : c->r.uid,
					   c->r.guid))) {
			n->lacking = pos;
			break;
		}
	}
	ixfile_close(&l.ix);
}
