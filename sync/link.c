/*
 * link.c - what all kinds of links share: the calls go to the implementation's row.
 */
#include "sync/link.h"
#include "meta/base/clock.h"

int
link_greet(struct link *l, bool *done_out)
{
	*done_out = false;
	return l->ops->greet(l, done_out);
}

int
link_read(struct link *l, void *p, size_t n, size_t *n_out)
{
	*n_out = 0;
	return l->ops->read(l, p, n, n_out);
}

int
link_write(struct link *l, const void *p, size_t n, size_t *n_out)
{
	*n_out = 0;
	return n > 0 ? l->ops->write(l, p, n, n_out) : 0;
}

uint64_t
link_line_us(struct link *l)
{
	return l->ops->line_us != NULL ? l->ops->line_us(l) : clock_ms() * 1000;
}

void
link_shut(struct link *l)
{
	l->ops->shut(l);
}

void
link_close(struct link *l)
{
	if (l != NULL)
		l->ops->close(l);
}

const char *
link_reason(const struct link *l)
{
	return l->reason;
}
