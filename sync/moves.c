/*
 * A list in the order of the moves: they are rare and soon confirmed, so it is short. A name is
 * followed through all moves that came after its row, each of which may move it on.
 */
#include "sync/moves.h"
#include "meta/base/err.h"
#include "meta/base/path.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct one {
	struct one *next;
	uint64_t seq;
	char *from, *to;
};

struct moves {
	pthread_mutex_t lock;
	struct one *first, **end;
};

int
moves_open(struct moves **out)
{
	struct moves *m = calloc(1, sizeof(*m));

	if (m == NULL)
		return ERR_NOMEM;
	m->end = &m->first;
	pthread_mutex_init(&m->lock, NULL);
	*out = m;
	return 0;
}

static void
one_free(struct one *o)
{
	free(o->from);
	free(o->to);
	free(o);
}

void
moves_close(struct moves *m)
{
	if (m == NULL)
		return;
	for (struct one *o = m->first, *next; o != NULL; o = next) {
		next = o->next;
		one_free(o);
	}
	pthread_mutex_destroy(&m->lock);
	free(m);
}

int
moves_add(struct moves *m, uint64_t seq, const char *from, const char *to)
{
	struct one *o = calloc(1, sizeof(*o));

	if (o == NULL)
		return ERR_NOMEM;
	o->seq = seq;
	o->from = strdup(from);
	o->to = strdup(to);
	if (o->from == NULL || o->to == NULL) {
		one_free(o);
		return ERR_NOMEM;
	}
	pthread_mutex_lock(&m->lock);
	*m->end = o;
	m->end = &o->next;
	pthread_mutex_unlock(&m->lock);
	return 0;
}

void
moves_release(struct moves *m, uint64_t seq)
{
	pthread_mutex_lock(&m->lock);
	while (m->first != NULL && m->first->seq <= seq) {
		struct one *o = m->first;
		m->first = o->next;
		if (m->first == NULL)
			m->end = &m->first;
		one_free(o);
	}
	pthread_mutex_unlock(&m->lock);
}

bool
moves_now(struct moves *m, uint64_t seq, const char *path, char *out, size_t size)
{
	bool moved = false, fits = strlen(path) < size;

	if (!fits)
		return false;
	memcpy(out, path, strlen(path) + 1);
	pthread_mutex_lock(&m->lock);
	for (const struct one *o = m->first; o != NULL && fits; o = o->next) {
		const char *rest = path_rest(out, o->from);
		size_t to = strlen(o->to);
		if (o->seq < seq || rest == NULL)
			continue;
		fits = to + strlen(rest) < size;
		if (!fits)
			break;
		memmove(out + to, rest, strlen(rest) + 1);
		memcpy(out, o->to, to);
		moved = true;
	}
	pthread_mutex_unlock(&m->lock);
	return moved && fits;
}
