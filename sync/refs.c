/*
 * refs.c - a table of BUCKETS sets of WAYS entries by inode number: what is new takes the place of
 * the oldest of its set. To forget one costs bytes on the line, never mail.
 */
#include "sync/refs.h"
#include "meta/base/err.h"
#include "meta/base/path.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUCKETS = 8192, WAYS = 4 };

struct ref {
	uint64_t ino;
	char *dir;
	uint32_t uid;
	uint32_t age;
};

struct refs {
	pthread_mutex_t lock;
	uint32_t now;
	struct ref table[BUCKETS][WAYS];
};

int
refs_open(struct refs **out)
{
	struct refs *r = calloc(1, sizeof(*r));

	if (r == NULL)
		return ERR_NOMEM;
	pthread_mutex_init(&r->lock, NULL);
	*out = r;
	return 0;
}

void
refs_close(struct refs *r)
{
	if (r == NULL)
		return;
	for (unsigned i = 0; i < BUCKETS; i++)
		for (unsigned w = 0; w < WAYS; w++)
			free(r->table[i][w].dir);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

static struct ref *
bucket_of(struct refs *r, uint64_t ino)
{
	return r->table[(ino * 0x9e3779b97f4a7c15u) >> 51 & (BUCKETS - 1)];
}

void
refs_put(struct refs *r, uint64_t ino, const char *dir, uint32_t uid)
{
	char *copy = strdup(dir);

	if (copy == NULL)
		return;
	pthread_mutex_lock(&r->lock);
	struct ref *b = bucket_of(r, ino), *at = &b[0];
	for (unsigned w = 0; w < WAYS; w++) {
		if (b[w].ino == ino) {
			at = &b[w];
			break;
		}
		if (b[w].age < at->age)
			at = &b[w];
	}
	free(at->dir);
	at->ino = ino;
	at->dir = copy;
	at->uid = uid;
	at->age = ++r->now;
	pthread_mutex_unlock(&r->lock);
}

bool
refs_get(struct refs *r, uint64_t ino, char *dir_out, size_t size, uint32_t *uid_out)
{
	bool found = false;

	pthread_mutex_lock(&r->lock);
	struct ref *b = bucket_of(r, ino);
	for (unsigned w = 0; w < WAYS && !found; w++) {
		if (b[w].ino != ino || b[w].dir == NULL || strlen(b[w].dir) >= size)
			continue;
		strcpy(dir_out, b[w].dir);
		*uid_out = b[w].uid;
		found = true;
	}
	pthread_mutex_unlock(&r->lock);
	return found;
}

static void
move_one(struct ref *ref, const char *from, const char *to)
{
	const char *rest = ref->dir != NULL ? path_rest(ref->dir, from) : NULL;
	char *dir;

	if (rest == NULL)
		return;
	/* Without memory it is forgotten: a hint less. */
	if (asprintf(&dir, "%s%s", to, rest) < 0)
		dir = NULL;
	free(ref->dir);
	ref->dir = dir;
}

void
refs_move(struct refs *r, const char *from, const char *to)
{
	pthread_mutex_lock(&r->lock);
	for (unsigned i = 0; i < BUCKETS; i++)
		for (unsigned w = 0; w < WAYS; w++)
			move_one(&r->table[i][w], from, to);
	pthread_mutex_unlock(&r->lock);
}
