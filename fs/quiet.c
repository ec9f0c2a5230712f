/*
 * A list of waiting paths, few at any time, and one thread that sleeps until the first is due.
 */
#include "fs/quiet.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "sync/sync.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BUCKETS = 256 };

struct waiting {
	struct waiting *next;
	char *path;
	uint64_t due_ms, last_ms; /* last_ms: the latest that due_ms may become */
};

static struct waiting *buckets[BUCKETS];
static size_t n_waiting;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
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

/* Takes out those that are due by now_ms. */
static struct waiting *
take_due(uint64_t now_ms)
{
	struct waiting *due = NULL;

	for (unsigned i = 0; i < BUCKETS && n_waiting > 0; i++) {
		struct waiting **at = &buckets[i];
		while (*at != NULL) {
			struct waiting *w = *at;
			if (w->due_ms > now_ms) {
				at = &w->next;
				continue;
			}
			*at = w->next;
			n_waiting--;
			w->next = due;
			due = w;
		}
	}
	return due;
}

static void
hand_on(struct waiting *due)
{
	while (due != NULL) {
		struct waiting *next = due->next;
		sync_path(to, due->path, NULL, NULL);
		free(due->path);
		free(due);
		due = next;
	}
}

void
quiet_changed(const char *path, bool now)
{
	uint64_t ms = clock_ms();

	if (now || !running) {
		sync_path(to, path, NULL, NULL);
		return;
	}
	pthread_mutex_lock(&lock);
	struct waiting **head = bucket_of(path), *w = *head;
	while (w != NULL && strcmp(w->path, path) != 0)
		w = w->next;
	if (w == NULL && (w = calloc(1, sizeof(*w))) != NULL) {
		w->path = strdup(path);
		w->last_ms = ms + QUIET_MAX_MS;
		w->next = *head;
		*head = w;
		n_waiting++;
	}
	if (w != NULL && w->path != NULL)
		w->due_ms = ms + QUIET_MS < w->last_ms ? ms + QUIET_MS : w->last_ms;
	pthread_cond_signal(&cond);
	pthread_mutex_unlock(&lock);
}

void
quiet_flush(void)
{
	pthread_mutex_lock(&lock);
	struct waiting *due = take_due(UINT64_MAX);
	pthread_mutex_unlock(&lock);
	hand_on(due);
}

static void *
run(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&lock);
	while (running) {
		struct timespec until;
		if (n_waiting == 0) {
			pthread_cond_wait(&cond, &lock);
			continue;
		}
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += 50000000;
		if (until.tv_nsec >= 1000000000) {
			until.tv_nsec -= 1000000000;
			until.tv_sec++;
		}
		pthread_cond_timedwait(&cond, &lock, &until);
		struct waiting *due = take_due(clock_ms());
		pthread_mutex_unlock(&lock);
		hand_on(due);
		pthread_mutex_lock(&lock);
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
