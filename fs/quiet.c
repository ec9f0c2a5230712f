/*
 * A list of waiting paths, few at any time, and one thread that sleeps until the first is due.
 * One that is being handed on is in a second list meanwhile: a folder may be moved while its
 * bytes are read, then it is handed on again under its new name.
 */
#include "fs/quiet.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/fault.h"
#include "meta/base/log.h"
#include "meta/base/path.h"
#include "sync/sync.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BUCKETS = 256 };

struct waiting {
	struct waiting *next;
	char *path;
	uint64_t due_ms, last_ms; /* last_ms: the latest that due_ms may become */
	uint64_t turn; /* when it went in hand */
};

static struct waiting *buckets[BUCKETS];
static struct waiting *in_hand;
static size_t n_waiting;
static uint64_t turns;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static pthread_cond_t put_down_cond = PTHREAD_COND_INITIALIZER;
static pthread_t thread;
static bool running;
static struct sync *to;

static struct waiting **
bucket_of(const char *path)
{
	uint32_t h = 2166136261u;

	for (; *path != '\0'; path++)
		h = (h ^ (uint8_t)*path) * 16777619u;
	return &buckets[h % BUCKETS];
}

static void
pick_up(struct waiting *w)
{
	w->turn = ++turns;
	w->next = in_hand;
	in_hand = w;
}

/* One that is due by now_ms goes in hand. Lock held. */
static struct waiting *
take_due(uint64_t now_ms)
{
	for (unsigned i = 0; i < BUCKETS && n_waiting > 0; i++) {
		for (struct waiting **at = &buckets[i]; *at != NULL;
			at = &(*at)->next) {
			struct waiting *w = *at;
			if (w->due_ms > now_ms)
				continue;
			*at = w->next;
			n_waiting--;
			pick_up(w);
			return w;
		}
	}
	return NULL;
}

static void
put_down(struct waiting *w)
{
	struct waiting **at = &in_hand;

	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	free(w->path);
	free(w);
	pthread_cond_broadcast(&put_down_cond);
}

static bool
in_hand_since(uint64_t turn)
{
	for (const struct waiting *w = in_hand; w != NULL; w = w->next)
		if (w->turn <= turn)
			return true;
	return false;
}

/* Called and returns with the lock held; gives it up meanwhile. */
static void
hand_on(struct waiting *w)
{
	char path[BATCH_MAX_PATH];
	int rc;

	do {
		uint64_t names = sync_names(to);
		memcpy(path, w->path, strlen(w->path) + 1);
		pthread_mutex_unlock(&lock);
		FAULT("quiet.in-hand");
		rc = sync_path(to, path, names, NULL, NULL);
		if (rc == ERR_NOTFOUND)
			sync_names_wait(to, path);
		pthread_mutex_lock(&lock);
	} while (rc == ERR_NOTFOUND);
	put_down(w);
}

/* The entry of a path, made if it is new. Lock held. */
static struct waiting *
get(const char *path, uint64_t ms)
{
	struct waiting **head = bucket_of(path), *w = *head;

	while (w != NULL && strcmp(w->path, path) != 0)
		w = w->next;
	if (w != NULL || strlen(path) >= BATCH_MAX_PATH ||
		(w = calloc(1, sizeof(*w))) == NULL)
		return w;
	if ((w->path = strdup(path)) == NULL) {
		free(w);
		return NULL;
	}
	w->last_ms = ms + QUIET_MAX_MS;
	w->next = *head;
	*head = w;
	n_waiting++;
	return w;
}

/* The entry itself, out of its bucket. Lock held. */
static void
take(struct waiting *w)
{
	struct waiting **at = bucket_of(w->path);

	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	n_waiting--;
}

bool
quiet_changed(const char *path, uint64_t names, bool now)
{
	uint64_t ms = clock_ms();

	pthread_mutex_lock(&lock);
	if (!sync_names_enter(to, names, path)) {
		pthread_mutex_unlock(&lock);
		sync_names_wait(to, path);
		return false;
	}
	sync_names_leave(to);
	struct waiting *w = get(path, ms);
	if (w != NULL && (now || !running)) {
		take(w);
		pick_up(w);
		hand_on(w);
	} else if (w != NULL) {
		w->due_ms = ms + QUIET_MS < w->last_ms ? ms + QUIET_MS : w->last_ms;
		pthread_cond_signal(&cond);
	} else {
		log_err("out of memory; a change is not replicated: path=%s", path);
	}
	pthread_mutex_unlock(&lock);
	return true;
}

void
quiet_look(const char *path)
{
	uint64_t ms = clock_ms();

	pthread_mutex_lock(&lock);
	struct waiting *w = get(path, ms);
	if (w != NULL && w->due_ms == 0)
		w->due_ms = ms + QUIET_MS;
	pthread_cond_signal(&cond);
	pthread_mutex_unlock(&lock);
}

void
quiet_flush(void)
{
	struct waiting *w;

	pthread_mutex_lock(&lock);
	while ((w = take_due(UINT64_MAX)) != NULL)
		hand_on(w);
	/* And what others had in hand before. */
	uint64_t turn = turns;
	while (in_hand_since(turn))
		pthread_cond_wait(&put_down_cond, &lock);
	pthread_mutex_unlock(&lock);
}

/* w->path with dest instead of from, if it lies in from. */
static bool
follow(struct waiting *w, const char *from, const char *dest)
{
	const char *rest = path_rest(w->path, from);
	char *path;

	if (rest == NULL || strlen(dest) + strlen(rest) >= BATCH_MAX_PATH ||
		asprintf(&path, "%s%s", dest, rest) < 0)
		return false;
	free(w->path);
	w->path = path;
	return true;
}

void
quiet_moved(const char *from, const char *dest, bool swap)
{
	struct waiting *all = NULL;

	pthread_mutex_lock(&lock);
	for (struct waiting *w = in_hand; w != NULL; w = w->next)
		if (!follow(w, from, dest) && swap)
			follow(w, dest, from);
	for (unsigned i = 0; i < BUCKETS && n_waiting > 0; i++) {
		while (buckets[i] != NULL) {
			struct waiting *w = buckets[i];
			buckets[i] = w->next;
			w->next = all;
			all = w;
		}
	}
	while (all != NULL) {
		struct waiting *w = all, **head;
		all = w->next;
		if (!follow(w, from, dest) && swap)
			follow(w, dest, from);
		head = bucket_of(w->path);
		w->next = *head;
		*head = w;
	}
	pthread_mutex_unlock(&lock);
}

static void *
run(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&lock);
	while (running) {
		if (n_waiting == 0) {
			pthread_cond_wait(&cond, &lock);
			continue;
		}
		struct timespec until = clock_until(50);
		clock_wait(&cond, &lock, &until);
		uint64_t now_ms = clock_ms();
		struct waiting *w;
		while ((w = take_due(now_ms)) != NULL)
			hand_on(w);
	}
	pthread_mutex_unlock(&lock);
	return NULL;
}

int
quiet_start(struct sync *sync)
{
	to = sync;
	running = true;
	if (pthread_create(&thread, NULL, run, NULL) != 0) {
		running = false;
		log_err("cannot start a thread");
		return ERR_NOMEM;
	}
	return 0;
}

void
quiet_stop(void)
{
	if (!running)
		return;
	pthread_mutex_lock(&lock);
	running = false;
	pthread_cond_signal(&cond);
	pthread_mutex_unlock(&lock);
	pthread_join(thread, NULL);
	quiet_flush();
}
