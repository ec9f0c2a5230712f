/*
 * How it works. A list of paths that wait. About once a second, if there are any, they become the
 * batch that a thread syncs the journal for; when that went well it settles their notes. So making a hundred folders costs one sync, and a delivery, which
 * notes nothing, none.
 */
#include "sync/settled.h"

#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/log.h"

#include <pthread.h>
#include <stdlib.h>

enum { SETTLE_MS = 1000 };

struct one {
	struct one *next;
	char *path;
	uint64_t mark;
};

struct settled {
	struct notes *notes;
	struct store *store;
	struct one *waiting;
	struct one *
		under_way; /* journaled before the sync began; the thread's, while it runs */
	uint64_t next_ms;
	pthread_t thread;
	bool running, broken;
	_Atomic bool ended;
	int rc;
};

int
settled_open(struct notes *notes, struct store *store, struct settled **out)
{
	struct settled *s = calloc(1, sizeof(*s));

	*out = s;
	if (s == NULL)
		return ERR_NOMEM;
	s->notes = notes;
	s->store = store;
	return 0;
}

void
settled_add(struct settled *s, char *path, uint64_t mark)
{
	struct one *o = s->broken ? NULL : malloc(sizeof(*o));

	if (o == NULL) {
		free(path); /* a note too many costs one look */
		return;
	}
	*o = (struct one){ s->waiting, path, mark };
	if (s->waiting == NULL && s->next_ms < clock_ms())
		s->next_ms = clock_ms() + SETTLE_MS;
	s->waiting = o;
}

static void
take_back(struct settled *s, struct one **list)
{
	while (*list != NULL) {
		struct one *o = *list;
		*list = o->next;
		notes_settle(s->notes, o->path, o->mark);
		free(o->path);
		free(o);
	}
}

static void *
sync_main(void *arg)
{
	struct settled *s = arg;

	s->rc = store_sync(s->store);
	if (s->rc == 0) {
		take_back(s, &s->under_way);
		notes_flush(s->notes);
	}
	s->ended = true;
	return NULL;
}

static void
finish(struct settled *s)
{
	pthread_join(s->thread, NULL);
	s->running = false;
	if (s->rc == 0)
		return;
	/* What a failed sync has dropped no later one writes, and all behind it hangs on that. */
	s->broken = true;
	log_err("the journal cannot be synced: look at the state folder's disk; until "
		"the next "
		"start all notes stay error=\"%s\"",
		err_text(s->rc));
}

void
settled_tick(struct settled *s)
{
	if (s->running && s->ended)
		finish(s);
	if (s->running || s->broken || s->waiting == NULL || clock_ms() < s->next_ms)
		return;
	s->next_ms = clock_ms() + SETTLE_MS;
	s->under_way = s->waiting;
	s->waiting = NULL;
	s->ended = false;
	s->rc = 0;
	s->running = true;
	if (pthread_create(&s->thread, NULL, sync_main, s) != 0) {
		s->running = false;
		s->waiting = s->under_way;
		s->under_way = NULL;
	}
}

static void
drop(struct one **list)
{
	while (*list != NULL) {
		struct one *o = *list;
		*list = o->next;
		free(o->path);
		free(o);
	}
}

void
settled_close(struct settled *s, bool synced)
{
	if (s == NULL)
		return;
	if (s->running)
		finish(s);
	if (synced && !s->broken)
		take_back(s, &s->waiting);
	drop(&s->waiting);
	drop(&s->under_way);
	free(s);
}
