/*
 * How it works. A ring by key: each new row takes the place, and the memory, of the one that was
 * there 64 keys ago.
 */
#include "sync/tail.h"
#include "meta/base/buf.h"
#include "meta/base/err.h"

#include <stdlib.h>
#include <string.h>

enum { ROWS = 64, ROW_MAX = 16 << 10 };

struct held {
	struct tail_row row; /* key 0: nothing; dir and bytes lie in mem */
	struct buf mem;
};

struct tail {
	struct held held[ROWS];
};

int
tail_open(struct tail **out)
{
	*out = calloc(1, sizeof(**out));
	return *out != NULL ? 0 : ERR_NOMEM;
}

void
tail_close(struct tail *t)
{
	if (t == NULL)
		return;
	for (unsigned i = 0; i < ROWS; i++)
		buf_fini(&t->held[i].mem);
	free(t);
}

void
tail_put(struct tail *t, const struct tail_row *row)
{
	struct held *h = &t->held[row->key % ROWS];

	h->row.key = 0;
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
tail_cut(struct tail *t, uint64_t key)
{
	for (unsigned i = 0; i < ROWS; i++)
		if (t->held[i].row.key > key)
			t->held[i].row.key = 0;
}

const struct tail_row *
tail_find(const struct tail *t, uint64_t key)
{
	const struct tail_row *row = &t->held[key % ROWS].row;

	return key != 0 && row->key == key ? row : NULL;
}
