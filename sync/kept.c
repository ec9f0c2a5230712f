/*
 * A queue in the order of the additions, whose seqs never fall; a body that is kept twice stays
 * until the later one is confirmed.
 */
#include "sync/kept.h"
#include "meta/base/err.h"
#include "meta/spool.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct one {
	struct one *next;
	uint64_t seq;
	uint8_t guid[SHA1_LEN];
};

struct kept {
	struct spool *spool;
	pthread_mutex_t lock;
	struct one *first, **end;
	uint64_t start_seq;
};

static int
push(struct kept *k, const uint8_t guid[SHA1_LEN], uint64_t seq)
{
	struct one *o = calloc(1, sizeof(*o));

	if (o == NULL)
		return ERR_NOMEM;
	o->seq = seq;
	memcpy(o->guid, guid, SHA1_LEN);
	*k->end = o;
	k->end = &o->next;
	return 0;
}

static void
found(void *arg, const uint8_t guid[SHA1_LEN])
{
	struct kept *k = arg;

	push(k, guid, k->start_seq);
}

int
kept_open(struct spool *sp, uint64_t seq, struct kept **out)
{
	struct kept *k = calloc(1, sizeof(*k));

	if (k == NULL)
		return ERR_NOMEM;
	k->spool = sp;
	k->start_seq = seq;
	k->end = &k->first;
	pthread_mutex_init(&k->lock, NULL);
	int rc = spool_kept_walk(sp, found, k);
	if (rc != 0) {
		kept_close(k);
		return rc;
	}
	*out = k;
	return 0;
}

void
kept_close(struct kept *k)
{
	if (k == NULL)
		return;
	for (struct one *o = k->first, *next; o != NULL; o = next) {
		next = o->next;
		free(o);
	}
	pthread_mutex_destroy(&k->lock);
	free(k);
}

int
kept_add(struct kept *k, const uint8_t guid[SHA1_LEN], const char *dir,
	const char *name, uint64_t seq)
{
	pthread_mutex_lock(&k->lock);
	int rc = spool_keep(k->spool, guid, dir, name);
	if (rc == 0)
		rc = push(k, guid, seq);
	pthread_mutex_unlock(&k->lock);
	return rc;
}

static int
is_kept_later(const struct kept *k, const uint8_t guid[SHA1_LEN])
{
	for (const struct one *o = k->first; o != NULL; o = o->next)
		if (memcmp(o->guid, guid, SHA1_LEN) == 0)
			return 1;
	return 0;
}

void
kept_release(struct kept *k, uint64_t confirmed)
{
	pthread_mutex_lock(&k->lock);
	while (k->first != NULL && k->first->seq <= confirmed) {
		struct one *o = k->first;
		k->first = o->next;
		if (k->first == NULL)
			k->end = &k->first;
		/* A scan of what is still kept: short while the peer keeps up, and a body
		 * deleted too early would be a lost mail. */
		if (!is_kept_later(k, o->guid))
			spool_kept_drop(k->spool, o->guid);
		free(o);
	}
	pthread_mutex_unlock(&k->lock);
}
