/*
 * Two hash tables over the same entries, by directory and by id, grown together. Entries are
 * never freed while the table lives: a removed mailbox leaves an entry that is not known, which
 * costs some hundred bytes until the next start and spares every user a reference count. A path's
 * entry is a quarter of a mailbox's.
 */
#include "sync/mboxes.h"
#include "meta/base/err.h"
#include "meta/base/hash.h"

#include <stdlib.h>
#include <string.h>

struct mboxes {
	pthread_mutex_t lock;
	struct mboxent **by_dir, **by_id;
	size_t n, size; /* entries, buckets */
	size_t n_known; /* mailboxes */
	struct mboxent *dirty;
	size_t n_dirty;
};

static uint32_t
hash_of(const char *s)
{
	uint64_t h = 14695981039346656037u;

	for (; *s != '\0'; s++)
		h = (h ^ (uint8_t)*s) * 1099511628211u;
	return (uint32_t)(h ^ h >> 32);
}

int
mboxes_open(struct mboxes **out)
{
	struct mboxes *t = calloc(1, sizeof(*t));

	if (t == NULL)
		return ERR_NOMEM;
	t->size = 1024;
	t->by_dir = calloc(t->size, sizeof(*t->by_dir));
	t->by_id = calloc(t->size, sizeof(*t->by_id));
	if (t->by_dir == NULL || t->by_id == NULL) {
		free(t->by_dir);
		free(t->by_id);
		free(t);
		return ERR_NOMEM;
	}
	pthread_mutex_init(&t->lock, NULL);
	*out = t;
	return 0;
}

void
mboxes_close(struct mboxes *t)
{
	if (t == NULL)
		return;
	for (size_t i = 0; i < t->size; i++) {
		struct mboxent *e = t->by_dir[i], *next;
		for (; e != NULL; e = next) {
			next = e->next;
			pthread_mutex_destroy(&e->lock);
			free(e->state);
			free(e);
		}
	}
	pthread_mutex_destroy(&t->lock);
	free(t->by_dir);
	free(t->by_id);
	free(t);
}

static struct mboxent *
find_locked(struct mboxes *t, const char *dir, uint32_t hash)
{
	struct mboxent *e = t->by_dir[hash & (t->size - 1)];

	while (e != NULL && (e->dir_hash != hash || strcmp(e->dir, dir) != 0))
		e = e->next;
	return e;
}

static void
link_id(struct mboxes *t, struct mboxent *e)
{
	struct mboxent **head = &t->by_id[e->id_hash & (t->size - 1)];

	e->id_next = *head;
	*head = e;
}

static void
unlink_id(struct mboxes *t, struct mboxent *e)
{
	struct mboxent **at = &t->by_id[e->id_hash & (t->size - 1)];

	while (*at != NULL && *at != e)
		at = &(*at)->id_next;
	if (*at != NULL)
		*at = e->id_next;
}

/* Doubling may fail: the table then only gets slower. */
static void
grow_locked(struct mboxes *t)
{
	size_t size = t->size * 2;
	struct mboxent **dirs = calloc(size, sizeof(*dirs));
	struct mboxent **ids = calloc(size, sizeof(*ids));
	struct mboxent **old = t->by_dir;
	size_t old_size = t->size;

	if (dirs == NULL || ids == NULL) {
		free(dirs);
		free(ids);
		return;
	}
	free(t->by_id);
	t->by_dir = dirs;
	t->by_id = ids;
	t->size = size;
	for (size_t i = 0; i < old_size; i++) {
		struct mboxent *e = old[i], *next;
		for (; e != NULL; e = next) {
			next = e->next;
			struct mboxent **head = &dirs[e->dir_hash & (size - 1)];
			e->next = *head;
			*head = e;
			if (e->id_hash != 0)
				link_id(t, e);
		}
	}
	free(old);
}

struct mboxent *
mboxes_find(struct mboxes *t, const char *dir)
{
	uint32_t hash = hash_of(dir);

	pthread_mutex_lock(&t->lock);
	struct mboxent *e = find_locked(t, dir, hash);
	pthread_mutex_unlock(&t->lock);
	return e;
}

static struct mboxent *
make(const char *dir, uint32_t hash)
{
	size_t n = strlen(dir) + 1;
	struct mboxent *e = calloc(1, sizeof(*e) + n);

	if (e == NULL)
		return NULL;
	if (!mboxes_is_path(dir) && (e->state = calloc(1, sizeof(*e->state))) == NULL) {
		free(e);
		return NULL;
	}
	pthread_mutex_init(&e->lock, NULL);
	e->dir_hash = hash;
	memcpy(e->dir, dir, n);
	return e;
}

struct mboxent *
mboxes_get(struct mboxes *t, const char *dir)
{
	uint32_t hash = hash_of(dir);

	pthread_mutex_lock(&t->lock);
	struct mboxent *e = find_locked(t, dir, hash);
	if (e == NULL && (e = make(dir, hash)) != NULL) {
		if (t->n >= t->size)
			grow_locked(t);
		struct mboxent **head = &t->by_dir[hash & (t->size - 1)];
		e->next = *head;
		*head = e;
		t->n++;
	}
	pthread_mutex_unlock(&t->lock);
	return e;
}

void
mboxes_expect(struct mboxes *t, uint64_t n)
{
	pthread_mutex_lock(&t->lock);
	/* Each step is of an empty table, or of one that would have to be taken anyway. */
	for (size_t before = 0; t->size < n && t->size != before;) {
		before = t->size;
		grow_locked(t);
	}
	pthread_mutex_unlock(&t->lock);
}

const char *
mboxes_id(const struct mboxent *e)
{
	return e->state != NULL ? e->state->uniqueid : "";
}

struct sum
mboxes_sum(const struct mboxent *e)
{
	struct mbox_sum path = { .records = e->digest };

	return mbox_sum_total(e->state != NULL ? &e->state->sum : &path);
}

int
mboxes_encode(const struct mboxent *e, struct buf *out)
{
	uint8_t digest[SUM_LEN];

	if (e->state != NULL)
		return mbox_state_encode(e->state, out);
	sum_put(e->digest, digest);
	buf_put(out, digest, sizeof(digest));
	return buf_ok(out);
}

int
mboxes_decode(struct mboxent *e, const void *p, size_t n)
{
	if (e->state != NULL)
		return mbox_state_decode(p, n, e->state);
	if (n != SUM_LEN)
		return ERR_MANGLED;
	e->digest = sum_get(p);
	return 0;
}

void
mboxes_identify(struct mboxes *t, struct mboxent *e)
{
	const char *id = mboxes_id(e);
	uint32_t h = e->known && id[0] != '\0' ? hash_of(id) | 1 : 0;

	pthread_mutex_lock(&t->lock);
	bool counts = e->known && e->state != NULL;
	t->n_known += counts && !e->counted;
	t->n_known -= !counts && e->counted;
	e->counted = counts;
	if (h != e->id_hash) {
		if (e->id_hash != 0)
			unlink_id(t, e);
		e->id_hash = h;
		if (h != 0)
			link_id(t, e);
	}
	pthread_mutex_unlock(&t->lock);
}

/* The state of another entry is read without its lock: the id of a known mailbox changes only
 * when it is reconstructed, and a stale answer costs a body sent twice. */
struct mboxent *
mboxes_twin(struct mboxes *t, const char *uniqueid, const char *not_dir)
{
	uint32_t h = hash_of(uniqueid) | 1;

	pthread_mutex_lock(&t->lock);
	struct mboxent *e = t->by_id[h & (t->size - 1)];
	while (e != NULL &&
		(e->id_hash != h || (not_dir != NULL && strcmp(e->dir, not_dir) == 0)))
		e = e->id_next;
	pthread_mutex_unlock(&t->lock);
	return e;
}

struct mboxent *
mboxes_by_id(struct mboxes *t, const char *uniqueid)
{
	return mboxes_twin(t, uniqueid, NULL);
}

void
mboxes_dirty(struct mboxes *t, struct mboxent *e)
{
	pthread_mutex_lock(&t->lock);
	if (!e->dirty) {
		e->dirty = true;
		e->dirty_next = t->dirty;
		t->dirty = e;
		t->n_dirty++;
	}
	pthread_mutex_unlock(&t->lock);
}

struct mboxent **
mboxes_take_dirty(struct mboxes *t, size_t *n_out)
{
	size_t n = 0;

	pthread_mutex_lock(&t->lock);
	struct mboxent **list = calloc(t->n_dirty + 1, sizeof(*list));
	for (struct mboxent *e = t->dirty; list != NULL && e != NULL;
		e = e->dirty_next) {
		e->dirty = false;
		list[n++] = e;
	}
	if (list != NULL) {
		t->dirty = NULL;
		t->n_dirty = 0;
	}
	pthread_mutex_unlock(&t->lock);
	*n_out = n;
	return list;
}

struct mboxent **
mboxes_list(struct mboxes *t, size_t *n_out)
{
	size_t n = 0;

	pthread_mutex_lock(&t->lock);
	struct mboxent **list = calloc(t->n + 1, sizeof(*list));
	for (size_t i = 0; list != NULL && i < t->size; i++)
		for (struct mboxent *e = t->by_dir[i]; e != NULL; e = e->next)
			list[n++] = e;
	pthread_mutex_unlock(&t->lock);
	*n_out = n;
	return list;
}

uint64_t
mboxes_count(struct mboxes *t)
{
	pthread_mutex_lock(&t->lock);
	uint64_t known = t->n_known;
	pthread_mutex_unlock(&t->lock);
	return known;
}

struct sum
mboxes_total(struct mboxes *t)
{
	struct sum total = { 0, 0 };
	struct buf key = BUF_INIT;
	size_t n;
	struct mboxent **list = mboxes_list(t, &n);

	for (size_t i = 0; list != NULL && i < n; i++) {
		struct mboxent *e = list[i];
		pthread_mutex_lock(&e->lock);
		if (e->known && !e->aside) {
			buf_clear(&key);
			buf_put(&key, e->dir, strlen(e->dir) + 1);
			uint8_t *at = buf_room(&key, SUM_LEN);
			if (at != NULL) {
				sum_put(mboxes_sum(e), at);
				key.len += SUM_LEN;
			}
			sum_add(&total, sum_of_names(key.data, key.len));
		}
		pthread_mutex_unlock(&e->lock);
	}
	free(list);
	buf_fini(&key);
	return total;
}
