/*
 * The clock ticks when a move ends. A ticket is its reading; a move concerns a ticket when it is
 * under way, or ended at a later reading: either may lie between the finding of the path and now.
 * The last few that ended are remembered; a ticket older than those is not valid for any path.
 *
 * The read side of the gate is held from the last look at the moves to the push of a row, the
 * write side while the list of moves changes. Writers go first, so readers cannot starve them.
 */
#include "sync/moving.h"
#include "meta/base/err.h"
#include "meta/base/path.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { REMEMBERED = 64 };

struct moving_one {
	struct moving_one *next;
	char *from, *to;
	uint64_t ended; /* reading of the clock; 0: under way */
};

struct moving {
	pthread_rwlock_t gate;
	pthread_mutex_t lock; /* inside the gate; the lists, for waiters */
	pthread_cond_t cond;
	struct moving_one *first; /* under way */
	struct moving_one *past[REMEMBERED];
	uint64_t clock;
	uint64_t forgotten; /* the last end that is not remembered */
};

int
moving_open(struct moving **out)
{
	struct moving *m = calloc(1, sizeof(*m));
	pthread_rwlockattr_t attr;

	if (m == NULL)
		return ERR_NOMEM;
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(
		&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&m->gate, &attr);
	pthread_rwlockattr_destroy(&attr);
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->cond, NULL);
	m->clock = 1;
	*out = m;
	return 0;
}

static void
one_free(struct moving_one *o)
{
	if (o == NULL)
		return;
	free(o->from);
	free(o->to);
	free(o);
}

void
moving_close(struct moving *m)
{
	if (m == NULL)
		return;
	for (struct moving_one *o = m->first, *next; o != NULL; o = next) {
		next = o->next;
		one_free(o);
	}
	for (unsigned i = 0; i < REMEMBERED; i++)
		one_free(m->past[i]);
	pthread_rwlock_destroy(&m->gate);
	pthread_mutex_destroy(&m->lock);
	pthread_cond_destroy(&m->cond);
	free(m);
}

uint64_t
moving_ticket(struct moving *m)
{
	pthread_mutex_lock(&m->lock);
	uint64_t ticket = m->clock;
	pthread_mutex_unlock(&m->lock);
	return ticket;
}

static bool
concerns(const struct moving_one *o, const char *path)
{
	return path_rest(path, o->from) != NULL || path_rest(path, o->to) != NULL;
}

/* Is a move under way that path lies in? Lock held. */
static bool
under_way(const struct moving *m, const char *path)
{
	for (const struct moving_one *o = m->first; o != NULL; o = o->next)
		if (concerns(o, path))
			return true;
	return false;
}

static bool
is_valid(const struct moving *m, uint64_t ticket, const char *path)
{
	if (m->forgotten > ticket || under_way(m, path))
		return false;
	for (unsigned i = 0; m->clock != ticket && i < REMEMBERED; i++)
		if (m->past[i] != NULL && m->past[i]->ended > ticket &&
			concerns(m->past[i], path))
			return false;
	return true;
}

bool
moving_enter(struct moving *m, uint64_t ticket, const char *path)
{
	pthread_rwlock_rdlock(&m->gate);
	pthread_mutex_lock(&m->lock);
	bool valid = is_valid(m, ticket, path);
	pthread_mutex_unlock(&m->lock);
	if (!valid)
		pthread_rwlock_unlock(&m->gate);
	return valid;
}

void
moving_leave(struct moving *m)
{
	pthread_rwlock_unlock(&m->gate);
}

void
moving_wait(struct moving *m, const char *path)
{
	pthread_mutex_lock(&m->lock);
	while (under_way(m, path))
		pthread_cond_wait(&m->cond, &m->lock);
	pthread_mutex_unlock(&m->lock);
}

/* Two moves one of which is inside the other's names go one after the other. Lock held. */
static bool
collides(const struct moving *m, const char *from, const char *to)
{
	for (const struct moving_one *o = m->first; o != NULL; o = o->next)
		if (concerns(o, from) || concerns(o, to) ||
			path_rest(o->from, from) != NULL ||
			path_rest(o->from, to) != NULL ||
			path_rest(o->to, from) != NULL || path_rest(o->to, to) != NULL)
			return true;
	return false;
}

int
moving_begin(struct moving *m, uint64_t ticket, const char *from, const char *to,
	struct moving_one **out)
{
	struct moving_one *o = calloc(1, sizeof(*o));
	int rc = 0;

	if (o == NULL || (o->from = strdup(from)) == NULL ||
		(o->to = strdup(to)) == NULL) {
		one_free(o);
		return ERR_NOMEM;
	}
	pthread_rwlock_wrlock(&m->gate);
	pthread_mutex_lock(&m->lock);
	bool blocked = collides(m, from, to);
	if (blocked || !is_valid(m, ticket, from) || !is_valid(m, ticket, to)) {
		rc = ERR_NOTFOUND;
	} else {
		o->next = m->first;
		m->first = o;
	}
	pthread_rwlock_unlock(&m->gate);
	while (rc != 0 && collides(m, from, to))
		pthread_cond_wait(&m->cond, &m->lock);
	pthread_mutex_unlock(&m->lock);
	if (rc != 0)
		one_free(o);
	else
		*out = o;
	return rc;
}

void
moving_end(struct moving *m, struct moving_one *one)
{
	struct moving_one **at = &m->first, **slot;

	pthread_rwlock_wrlock(&m->gate);
	pthread_mutex_lock(&m->lock);
	while (*at != one)
		at = &(*at)->next;
	*at = one->next;
	one->ended = ++m->clock;
	slot = &m->past[one->ended % REMEMBERED];
	if (*slot != NULL)
		m->forgotten = (*slot)->ended;
	one_free(*slot);
	*slot = one;
	pthread_cond_broadcast(&m->cond);
	pthread_mutex_unlock(&m->lock);
	pthread_rwlock_unlock(&m->gate);
}

const char *
moving_from(const struct moving_one *one)
{
	return one->from;
}

const char *
moving_to(const struct moving_one *one)
{
	return one->to;
}
