/*
 * How it works. A ring by seq: each new row takes the place, and the memory, of the one that was
 * there 64 rows ago.
 */
#include "sync/journal_tail.h"
#include "meta/base/buf.h"
#include "meta/base/err.h"

#include <stdlib.h>
#include <string.h>

enum { ROWS = 64, ROW_MAX = 16 << 10 };

struct held {
	struct journal_row row; /* seq 0: nothing; dir and bytes lie in mem */
	struct buf mem;
};

struct journal_tail {
	struct held held[ROWS];
};

int
journal_tail_open(struct journal_tail **out)
{
	*out = calloc(1, sizeof(**out));
	return *out != NULL ? 0 : ERR_NOMEM;
}

void
journal_tail_close(struct journal_tail *t)
{
	if (t == NULL)
		return;
	for (unsigned i = 0; i < ROWS; i++)
		buf_fini(&t->held[i].mem);
	free(t);
}

void
journal_tail_put(struct journal_tail *t, const struct journal_row *row)
{
	struct held *h = &t->held[row->pos.seq % ROWS];

	h->row.pos.seq = 0;
	if (row->n > ROW_MAX)
		return;
	buf_clear(&h->mem);
	buf_put(&h->mem, row->bytes, row->n);
	buf_put(&h->mem, row->dir, strlen(row->dir) + 1);
	if (buf_ok(&h->mem) != 0)
		return;
	h->row = *row;
	h->row.bytes = h->mem.data;
	h->row.dir = (const char *)h->mem.data + row->n;
}

void
journal_tail_cut(struct journal_tail *t, uint64_t seq)
{
	for (unsigned i = 0; i < ROWS; i++)
		if (t->held[i].row.pos.seq > seq)
			t->held[i].row.pos.seq = 0;
}

const struct journal_row *
journal_tail_find(const struct journal_tail *t, uint64_t seq)
{
	const struct journal_row *row = &t->held[seq % ROWS].row;

	return seq != 0 && row->pos.seq == seq ? row : NULL;
}
