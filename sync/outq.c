/*
 * outq.c - a list under a lock, and two counters: of what was put (each item's number is its place)
 * and of what is settled, for those who wait for "everything until now".
 */
#include "sync/outq.h"
#include "meta/base/err.h"
#include "sync/loop.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct outq {
	pthread_mutex_t lock;
	struct outq_item *first, **end;
	uint64_t last, settled;
	struct loop *loop;
	struct loop_call *wake;
};

int
outq_open(struct loop *loop, struct loop_call *wake, struct outq **out)
{
	struct outq *q = calloc(1, sizeof(*q));

	if (q == NULL)
		return ERR_NOMEM;
	pthread_mutex_init(&q->lock, NULL);
	q->end = &q->first;
	q->loop = loop;
	q->wake = wake;
	*out = q;
	return 0;
}

void
outq_close(struct outq *q)
{
	if (q == NULL)
		return;
	for (struct outq_item *it = q->first, *next; it != NULL; it = next) {
		next = it->next;
		outq_item_free(it);
	}
	pthread_mutex_destroy(&q->lock);
	free(q);
}

struct outq_item *
outq_item(const char *key)
{
	struct outq_item *it = calloc(1, sizeof(*it));

	if (it != NULL && (it->key = strdup(key)) == NULL) {
		free(it);
		it = NULL;
	}
	return it;
}

void
outq_item_free(struct outq_item *it)
{
	if (it == NULL)
		return;
	buf_fini(&it->bytes);
	buf_fini(&it->state);
	free(it->key);
	free(it->note);
	free(it);
}

uint64_t
outq_push(struct outq *q, struct outq_item *it)
{
	pthread_mutex_lock(&q->lock);
	bool was_empty = q->first == NULL;
	it->next = NULL;
	*q->end = it;
	q->end = &it->next;
	uint64_t ticket = ++q->last;
	pthread_mutex_unlock(&q->lock);
	if (was_empty)
		loop_raise(q->loop, q->wake);
	return ticket;
}

struct outq_item *
outq_take(struct outq *q)
{
	pthread_mutex_lock(&q->lock);
	struct outq_item *all = q->first;
	q->first = NULL;
	q->end = &q->first;
	pthread_mutex_unlock(&q->lock);
	return all;
}

uint64_t
outq_last(struct outq *q)
{
	pthread_mutex_lock(&q->lock);
	uint64_t last = q->last;
	pthread_mutex_unlock(&q->lock);
	return last;
}

void
outq_settled(struct outq *q, uint64_t upto)
{
	pthread_mutex_lock(&q->lock);
	q->settled = upto;
	pthread_mutex_unlock(&q->lock);
}

uint64_t
outq_settled_upto(struct outq *q)
{
	pthread_mutex_lock(&q->lock);
	uint64_t upto = q->settled;
	pthread_mutex_unlock(&q->lock);
	return upto;
}
