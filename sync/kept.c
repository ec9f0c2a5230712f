/*
 * A queue in the order of the seqs, which hardly ever fall from one addition to the next, and a
 * table of the same entries by GUID: a body that is kept twice is one entry, at the place of the
 * later one. So an addition looks at one chain of the table, and a release only at what it drops.
 */
#include "sync/kept.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/spool.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS_MIN = 256 };

struct one {
	struct one *next, *prev; /* the queue */
	struct one *same; /* the table's chain */
	uint64_t seq;
	uint64_t nth; /* addition */
	uint8_t guid[SHA1_LEN];
};

struct kept {
	struct spool *spool;
	pthread_mutex_t lock;
	struct one *first, *last;
	struct one **slots; /* a power of two of them */
	size_t n_slots, n;
	uint64_t start_seq, looks;
	uint64_t added; /* so many additions */
	uint64_t clamp_nth,
		clamp_seq; /* up to this one they wait for no more than that */
	int rc; /* of the walk */
};

static struct one **
slot_of(const struct kept *k, const uint8_t guid[SHA1_LEN])
{
	uint32_t h;

	memcpy(&h, guid, sizeof(h)); /* a hash already */
	return &k->slots[h & (k->n_slots - 1)];
}

/* Room for one more. */
static int
grow(struct kept *k)
{
	size_t n = k->n_slots ? k->n_slots * 2 : SLOTS_MIN;

	if (k->n < k->n_slots)
		return 0;
	struct one **slots = calloc(n, sizeof(*slots));
	if (slots == NULL)
		return ERR_NOMEM;
	free(k->slots);
	k->slots = slots;
	k->n_slots = n;
	for (struct one *o = k->first; o != NULL; o = o->next) {
		struct one **at = slot_of(k, o->guid);
		o->same = *at;
		*at = o;
	}
	return 0;
}

static struct one **
find(struct kept *k, const uint8_t guid[SHA1_LEN])
{
	struct one **at = slot_of(k, guid);

	for (; *at != NULL; at = &(*at)->same) {
		k->looks++;
		if (memcmp((*at)->guid, guid, SHA1_LEN) == 0)
			break;
	}
	return at;
}

static void
unqueue(struct kept *k, struct one *o)
{
	*(o->prev != NULL ? &o->prev->next : &k->first) = o->next;
	*(o->next != NULL ? &o->next->prev : &k->last) = o->prev;
}

static void
queue(struct kept *k, struct one *o)
{
	o->next = NULL;
	o->prev = k->last;
	*(k->last != NULL ? &k->last->next : &k->first) = o;
	k->last = o;
}

static int
push(struct kept *k, const uint8_t guid[SHA1_LEN], uint64_t seq)
{
	int rc = grow(k);

	if (rc != 0)
		return rc;
	struct one **at = find(k, guid), *o = *at;
	if (o != NULL) {
		unqueue(k, o);
		o->seq = seq > o->seq ? seq : o->seq;
		o->nth = ++k->added;
		queue(k, o);
		return 0;
	}
	if ((o = calloc(1, sizeof(*o))) == NULL)
		return ERR_NOMEM;
	o->seq = seq;
	o->nth = ++k->added;
	memcpy(o->guid, guid, SHA1_LEN);
	*at = o;
	queue(k, o);
	k->n++;
	return 0;
}

static void
found(void *arg, const uint8_t guid[SHA1_LEN])
{
	struct kept *k = arg;

	if (k->rc == 0)
		k->rc = push(k, guid, k->start_seq);
}

int
kept_open(struct spool *sp, uint64_t seq, struct kept **out)
{
	struct kept *k = calloc(1, sizeof(*k));

	if (k == NULL)
		return ERR_NOMEM;
	k->spool = sp;
	k->start_seq = seq;
	pthread_mutex_init(&k->lock, NULL);
	int rc = spool_kept_walk(sp, found, k);
	if (rc == 0)
		rc = k->rc;
	if (rc != 0) {
		kept_close(k);
		return rc;
	}
	k->looks = 0;
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
	free(k->slots);
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

static bool
release_first(struct kept *k, uint64_t confirmed)
{
	struct one *o = k->first, **at;

	if (o == NULL || (o->seq > confirmed &&
				 (o->nth > k->clamp_nth || k->clamp_seq > confirmed)))
		return false;
	at = find(k, o->guid);
	*at = o->same;
	unqueue(k, o);
	k->n--;
	spool_kept_drop(k->spool, o->guid);
	free(o);
	return true;
}

unsigned
kept_release(struct kept *k, uint64_t confirmed)
{
	unsigned n = 0;
	bool more = k != NULL;

	while (more && n < KEPT_AT_ONCE) {
		pthread_mutex_lock(&k->lock);
		more = release_first(k, confirmed);
		pthread_mutex_unlock(&k->lock);
		n += more;
	}
	return n;
}

uint64_t
kept_mark(struct kept *k)
{
	if (k == NULL)
		return 0;
	pthread_mutex_lock(&k->lock);
	uint64_t mark = k->added;
	pthread_mutex_unlock(&k->lock);
	return mark;
}

void
kept_clamp(struct kept *k, uint64_t mark, uint64_t seq)
{
	if (k == NULL)
		return;
	pthread_mutex_lock(&k->lock);
	k->clamp_nth = mark;
	k->clamp_seq = seq;
	pthread_mutex_unlock(&k->lock);
}

uint64_t
kept_looks(const struct kept *k)
{
	return k->looks;
}

/* ---- a standby ---- */

struct expiry {
	struct spool *spool;
	uint64_t before_ns;
	unsigned gone;
};

/* A link's making and going both count as a change of the file, so that a body which somebody
 * still uses elsewhere stays longer, never shorter. */
static void
expire(void *arg, const uint8_t guid[SHA1_LEN])
{
	struct expiry *x = arg;
	uint64_t changed_ns;

	if (spool_kept_since(x->spool, guid, &changed_ns) != 0 ||
		changed_ns >= x->before_ns)
		return;
	spool_kept_drop(x->spool, guid);
	x->gone++;
}

unsigned
kept_expire(struct spool *sp, uint64_t age_ms)
{
	uint64_t now = clock_wall_ns(), age = age_ms * 1000000;
	struct expiry x = { sp, now > age ? now - age : 0, 0 };

	(void)spool_kept_walk(sp, expire, &x);
	return x.gone;
}
