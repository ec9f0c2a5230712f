/*
 * A hash table of the bodies and a list by age. A body leaves when it is placed; what nobody
 * asks for (its batch was skipped) is pushed out by age, into staging, where it is found if
 * somebody does.
 */
#include "sync/held.h"
#include "meta/base/err.h"
#include "meta/spool.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 4096 };

struct one {
	struct one *next; /* in its bucket */
	struct one *younger, *older;
	uint8_t guid[SHA1_LEN];
	uint8_t *bytes;
	size_t n;
};

struct held {
	struct spool *spool;
	pthread_mutex_t lock;
	struct one *buckets[BUCKETS];
	struct one *oldest, *youngest;
	size_t bytes;
};

static struct one **
bucket_of(struct held *h, const uint8_t guid[SHA1_LEN])
{
	return &h->buckets[(guid[0] | guid[1] << 8) % BUCKETS];
}

static struct one **
find(struct held *h, const uint8_t guid[SHA1_LEN])
{
	struct one **at = bucket_of(h, guid);

	while (*at != NULL && memcmp((*at)->guid, guid, SHA1_LEN) != 0)
		at = &(*at)->next;
	return at;
}

/* Out of the table; the caller's then. Lock held. */
static struct one *
take(struct held *h, struct one **at)
{
	struct one *o = *at;

	*at = o->next;
	*(o->older != NULL ? &o->older->younger : &h->oldest) = o->younger;
	*(o->younger != NULL ? &o->younger->older : &h->youngest) = o->older;
	h->bytes -= o->n;
	return o;
}

static void
one_free(struct one *o)
{
	free(o->bytes);
	free(o);
}

int
held_open(struct spool *sp, struct held **out)
{
	struct held *h = calloc(1, sizeof(*h));

	if (h == NULL)
		return ERR_NOMEM;
	h->spool = sp;
	pthread_mutex_init(&h->lock, NULL);
	*out = h;
	return 0;
}

void
held_close(struct held *h)
{
	if (h == NULL)
		return;
	while (h->oldest != NULL)
		one_free(take(h, find(h, h->oldest->guid)));
	pthread_mutex_destroy(&h->lock);
	free(h);
}

static int
to_staging(struct held *h, const struct one *o)
{
	struct spool_stage *st;
	int rc;

	if (spool_staged(h->spool, o->guid))
		return 0;
	if ((rc = spool_stage_open(h->spool, o->guid, o->n, &st)) != 0)
		return rc;
	if ((rc = spool_stage_write(st, o->bytes, o->n)) != 0) {
		spool_stage_abort(st);
		return rc;
	}
	return spool_stage_done(st, false);
}

int
held_put(struct held *h, const uint8_t guid[SHA1_LEN], uint8_t *bytes, size_t n)
{
	struct one *o = calloc(1, sizeof(*o)), *out = NULL;
	int rc = 0;

	if (o == NULL) {
		free(bytes);
		return ERR_NOMEM;
	}
	memcpy(o->guid, guid, SHA1_LEN);
	o->bytes = bytes;
	o->n = n;
	pthread_mutex_lock(&h->lock);
	if (*find(h, guid) != NULL) {
		pthread_mutex_unlock(&h->lock);
		one_free(o);
		return 0;
	}
	struct one **head = bucket_of(h, guid);
	o->next = *head;
	*head = o;
	o->older = h->youngest;
	*(o->older != NULL ? &o->older->younger : &h->oldest) = o;
	h->youngest = o;
	h->bytes += n;
	while (h->bytes > HELD_MAX && h->oldest != o) {
		struct one *old = take(h, find(h, h->oldest->guid));
		old->next = out;
		out = old;
	}
	pthread_mutex_unlock(&h->lock);
	while (out != NULL) {
		struct one *next = out->next;
		int err = to_staging(h, out);
		rc = rc != 0 ? rc : err;
		one_free(out);
		out = next;
	}
	return rc;
}

bool
held_full(struct held *h)
{
	pthread_mutex_lock(&h->lock);
	bool full = h->bytes > HELD_FULL;
	pthread_mutex_unlock(&h->lock);
	return full;
}

/* Out of memory, or NULL. */
static struct one *
take_out(struct held *h, const uint8_t guid[SHA1_LEN])
{
	struct one **at, *o = NULL;

	pthread_mutex_lock(&h->lock);
	if (*(at = find(h, guid)) != NULL)
		o = take(h, at);
	pthread_mutex_unlock(&h->lock);
	return o;
}

int
held_place(struct held *h, const uint8_t guid[SHA1_LEN], const struct spool_place *to)
{
	struct one *o = take_out(h, guid);
	int rc;

	if (o == NULL)
		return spool_stage_take(h->spool, guid, to);
	rc = spool_make(h->spool, to, o->bytes, o->n);
	if (rc == 0)
		one_free(o);
	else
		(void)held_put(h, o->guid, o->bytes, o->n), free(o);
	return rc;
}

void
held_drop(struct held *h, const uint8_t guid[SHA1_LEN])
{
	struct one *o = take_out(h, guid);

	if (o != NULL)
		one_free(o);
	spool_stage_drop(h->spool, guid);
}
