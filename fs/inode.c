/*
 * inode.c - the table of known files.
 *
 * Shared memory holds entries (facts), a mark up to which they were ever used, and one small
 * redo record. Private memory holds, for the same numbers, hash chains, holds and pins; the cache
 * of descriptors is inode_fd.c.
 *
 * A lookup count and the slot that will tell the kernel of it change together or not at all: the
 * few words are first written into the redo record, then to their places. A server that dies
 * in between leaves a record, and the next one carries it out again (the words are values, not
 * differences). Everything else is one store: an entry counts when its valid flag is set.
 *
 * After a death: carry the record out, then walk all entries: valid ones with a count or marks go
 * into the index, the others are free. Counts that a lost answer had taken are given back
 * afterwards, by slot.c, one answer at a time.
 */
#include "fs/inode_own.h"

#include "fs/slot.h"
#include "fs/super.h"
#include "meta/base/err.h"
#include "meta/base/fault.h"
#include "meta/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BUCKETS_FIRST 4096 /* doubled whenever there are more entries than buckets */
#define REDO_WORDS 4

struct inode_shared {
	uint32_t max;
	_Atomic uint32_t used; /* entries [1, used) were in use at some time */
	_Atomic uint32_t redo_n; /* words of the record; 0 when none is pending */
	struct {
		uint64_t
			at; /* offset from this struct, may lie anywhere in the memory */
		uint64_t value;
	} redo[REDO_WORDS];
	struct inode_claims claims;
	_Alignas(64) struct inode entries[];
};

struct inode_table inode_tab = { .lock = PTHREAD_MUTEX_INITIALIZER, .root_fd = -1 };

static struct {
	struct inode_shared *sh;
	struct super *su;
	uint32_t *buckets;
	uint32_t nbuckets;
	uint32_t *free; /* stack of free numbers below used */
	uint32_t nfree;
	uint32_t count;
	uint32_t nredo; /* words gathered for the next record */
} tab;

/* ---- small parts ---- */

static uint32_t
index_of(const struct inode *ino)
{
	return (uint32_t)(ino - tab.sh->entries);
}

struct inode_own *
inode_own(const struct inode *ino)
{
	return &inode_tab.own[index_of(ino)];
}

uint64_t
inode_nodeid(const struct inode *ino)
{
	return (uint64_t)ino->reuse << 32 | index_of(ino);
}

struct place
inode_place(const struct inode *ino)
{
	uint64_t w = atomic_load_explicit(&ino->place, memory_order_relaxed);

	return (struct place){ (uint8_t)(w >> 40), (uint8_t)(w >> 32), (uint32_t)w };
}

mode_t
inode_type(const struct inode *ino)
{
	return (mode_t)ino->type << 12;
}

static uint64_t
pack(struct place p)
{
	return (uint64_t)p.kind << 40 | (uint64_t)p.which << 32 | p.uid;
}

uint32_t
inode_count(void)
{
	pthread_mutex_lock(&inode_tab.lock);
	uint32_t n = tab.count;
	pthread_mutex_unlock(&inode_tab.lock);
	return n;
}

int
inode_root_fd(void)
{
	return inode_tab.root_fd;
}

static uint32_t
bucket_of(int32_t type, const uint8_t *bytes, size_t n)
{
	uint64_t h = 0xcbf29ce484222325ull ^ (uint32_t)type;

	for (size_t i = 0; i < n; i++)
		h = (h ^ bytes[i]) * 0x100000001b3ull;
	h ^= h >> 32;
	return (uint32_t)h & (tab.nbuckets - 1);
}

static bool
same_handle(const struct inode *ino, const struct slot_handle *h)
{
	return ino->handle_type == h->type && ino->handle_len == h->len &&
	       memcmp(ino->handle, h->bytes, h->len) == 0;
}

bool
inode_has_handle(const struct inode *ino, const struct slot_handle *h)
{
	return h->len != 0 && same_handle(ino, h);
}

struct inode *
inode_find(const struct slot_handle *h)
{
	uint32_t i = tab.buckets[bucket_of(h->type, h->bytes, h->len)];

	while (i != 0 && !same_handle(&tab.sh->entries[i], h))
		i = inode_tab.own[i].chain;
	return i != 0 ? &tab.sh->entries[i] : NULL;
}

/* Zeroed memory that costs nothing until it is touched. */
static void *
sparse(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void
chain_in(struct inode *ino)
{
	uint32_t b = bucket_of(ino->handle_type, ino->handle, ino->handle_len);

	inode_own(ino)->chain = tab.buckets[b];
	tab.buckets[b] = index_of(ino);
}

/* All valid entries into so many new buckets; without memory the old ones stay. */
static int
rehash(uint32_t nbuckets)
{
	uint32_t used = atomic_load(&tab.sh->used);
	uint32_t *buckets = sparse(nbuckets * sizeof(*buckets));

	if (buckets == NULL)
		return ERR_NOMEM;
	if (tab.buckets != NULL)
		munmap(tab.buckets, tab.nbuckets * sizeof(*tab.buckets));
	tab.buckets = buckets;
	tab.nbuckets = nbuckets;
	for (uint32_t i = 1; i < used; i++) {
		if (atomic_load(&tab.sh->entries[i].valid))
			chain_in(&tab.sh->entries[i]);
	}
	return 0;
}

/* A valid entry into the index. */
static void
index_in(struct inode *ino)
{
	chain_in(ino);
	if (++tab.count > tab.nbuckets)
		(void)rehash(2 * tab.nbuckets);
}

static void
chain_out(struct inode *ino)
{
	uint32_t b = bucket_of(ino->handle_type, ino->handle, ino->handle_len);
	uint32_t *at = &tab.buckets[b], i = index_of(ino);

	while (*at != 0 && *at != i)
		at = &inode_tab.own[*at].chain;
	if (*at == i) {
		*at = inode_own(ino)->chain;
		tab.count--;
	}
}

/* ---- the redo record ---- */

static void
redo_add(uint64_t *at, uint64_t value)
{
	uint32_t n = tab.nredo++;

	tab.sh->redo[n].at = (uint64_t)((uint8_t *)at - (uint8_t *)tab.sh);
	tab.sh->redo[n].value = value;
}

static void
redo_run(void)
{
	uint32_t n = atomic_load_explicit(&tab.sh->redo_n, memory_order_acquire);

	for (uint32_t i = 0; i < n && i < REDO_WORDS; i++)
		*(uint64_t *)((uint8_t *)tab.sh + tab.sh->redo[i].at) =
			tab.sh->redo[i].value;
	atomic_store_explicit(&tab.sh->redo_n, 0, memory_order_release);
}

static void
redo_commit(void)
{
	atomic_store_explicit(&tab.sh->redo_n, tab.nredo, memory_order_release);
	tab.nredo = 0;
	FAULT("inode.redo");
	redo_run();
}

/* ---- entries ---- */

struct inode *
inode_get(uint64_t nodeid)
{
	uint32_t i = (uint32_t)nodeid;
	struct inode *ino;

	if (i == 0 || i >= atomic_load_explicit(&tab.sh->used, memory_order_acquire))
		return NULL;
	ino = &tab.sh->entries[i];
	if (!atomic_load_explicit(&ino->valid, memory_order_acquire) ||
		ino->reuse != (uint32_t)(nodeid >> 32))
		return NULL;
	return ino;
}

struct inode *
inode_parent(const struct inode *ino)
{
	return inode_get(atomic_load(&ino->parent));
}

/* A free entry, not yet valid. Lock held. */
static struct inode *
fresh(void)
{
	uint32_t i;

	if (tab.nfree > 0) {
		i = tab.free[--tab.nfree];
	} else {
		i = atomic_load(&tab.sh->used);
		if (i >= tab.sh->max)
			return NULL;
		atomic_store_explicit(&tab.sh->used, i + 1, memory_order_release);
	}
	tab.sh->entries[i].reuse++;
	return &tab.sh->entries[i];
}

/* Takes the entry out if nobody needs it. Lock held; what must be closed goes to dead. */
static void
release(struct inode *ino, struct inode_dead *dead)
{
	struct inode_own *own = inode_own(ino);

	if (ino->nlookup != 0 || atomic_load(&ino->marks) != 0 || own->holds != 0 ||
		index_of(ino) == INODE_ROOT || !atomic_load(&ino->valid))
		return;
	chain_out(ino);
	dead->nodeid = own->pin > 0 ? inode_nodeid(ino) : 0;
	dead->pin = own->pin - 1;
	own->pin = 0;
	inode_fd_disown(ino, dead);
	atomic_store_explicit(&ino->valid, 0, memory_order_release);
	tab.free[tab.nfree++] = index_of(ino);
}

static void
bury(struct inode_dead *dead)
{
	for (unsigned i = 0; i < dead->nfds; i++)
		close(dead->fds[i]);
	if (dead->pin >= 0)
		close(dead->pin);
	if (dead->nodeid != 0)
		super_unpin(tab.su, dead->nodeid);
}

static void
set_place(struct inode *ino, struct inode *parent, const char *name)
{
	struct place p = place_step(inode_place(parent), name, inode_type(ino));

	atomic_store(&ino->place, pack(p));
	atomic_store(&ino->parent, inode_nodeid(parent));
}

void
inode_moved(struct inode *ino, struct inode *parent, const char *name)
{
	pthread_mutex_lock(&inode_tab.lock);
	set_place(ino, parent, name);
	pthread_mutex_unlock(&inode_tab.lock);
}

int
inode_enter(struct slot *slot, struct inode *parent, const char *name,
	const struct slot_handle *h, const struct stat *st, struct inode **ino_out)
{
	struct place place;
	struct inode *ino;
	int err = 0;

	*ino_out = NULL;
	if (h->len == 0)
		return ESTALE;
	place = place_step(inode_place(parent), name, st->st_mode);
	pthread_mutex_lock(&inode_tab.lock);
	inode_claim_wait(h, place.kind);
	ino = inode_find(h);
	if (ino == NULL) {
		ino = fresh();
		if (ino == NULL) {
			err = ENFILE;
			goto out;
		}
		ino->nlookup = 0;
		atomic_store(&ino->marks, 0);
		ino->type = (uint8_t)(st->st_mode >> 12);
		ino->handle_type = h->type;
		ino->handle_len = (uint8_t)h->len;
		memcpy(ino->handle, h->bytes, h->len);
		memset(inode_own(ino), 0, sizeof(struct inode_own));
		set_place(ino, parent, name);
		atomic_store_explicit(&ino->valid, 1, memory_order_release);
		index_in(ino);
	} else if (index_of(ino) != INODE_ROOT) {
		set_place(ino, parent, name);
	}
	if (slot != NULL) {
		redo_add(&ino->nlookup, ino->nlookup + 1);
		redo_add(&slot->grants[slot->ngrants], inode_nodeid(ino));
		redo_add(&slot->ngrants, slot->ngrants + 1);
		redo_commit();
	}
	*ino_out = ino;
out:
	pthread_mutex_unlock(&inode_tab.lock);
	return err;
}

void
inode_grants_undo(struct slot *slot)
{
	while (slot->ngrants > 0) {
		struct inode_dead dead = INODE_DEAD_NONE;
		struct inode *ino = inode_get(slot->grants[slot->ngrants - 1]);

		pthread_mutex_lock(&inode_tab.lock);
		if (ino != NULL && ino->nlookup > 0)
			redo_add(&ino->nlookup, ino->nlookup - 1);
		redo_add(&slot->ngrants, slot->ngrants - 1);
		redo_commit();
		if (ino != NULL)
			release(ino, &dead);
		pthread_mutex_unlock(&inode_tab.lock);
		bury(&dead);
	}
}

void
inode_forget(struct slot *slot, uint64_t item, uint64_t nodeid, uint64_t count)
{
	struct inode_dead dead = INODE_DEAD_NONE;
	struct inode *ino = inode_get(nodeid);

	if (ino == NULL || item < slot->progress)
		return;
	pthread_mutex_lock(&inode_tab.lock);
	redo_add(&ino->nlookup, ino->nlookup > count ? ino->nlookup - count : 0);
	redo_add(&slot->progress, item + 1);
	redo_commit();
	release(ino, &dead);
	pthread_mutex_unlock(&inode_tab.lock);
	bury(&dead);
}

void
inode_hold(struct inode *ino)
{
	pthread_mutex_lock(&inode_tab.lock);
	inode_own(ino)->holds++;
	pthread_mutex_unlock(&inode_tab.lock);
}

void
inode_drop(struct inode *ino)
{
	struct inode_dead dead = INODE_DEAD_NONE;

	pthread_mutex_lock(&inode_tab.lock);
	inode_own(ino)->holds--;
	release(ino, &dead);
	pthread_mutex_unlock(&inode_tab.lock);
	bury(&dead);
}

void
inode_mark(struct inode *ino, uint32_t bits)
{
	atomic_fetch_or(&ino->marks, bits);
}

void
inode_unmark(struct inode *ino, uint32_t bits)
{
	struct inode_dead dead = INODE_DEAD_NONE;

	if ((atomic_fetch_and(&ino->marks, ~bits) & ~bits) != 0)
		return;
	pthread_mutex_lock(&inode_tab.lock);
	release(ino, &dead);
	pthread_mutex_unlock(&inode_tab.lock);
	bury(&dead);
}

void
inode_each_marked(void (*fn)(struct inode *ino, uint32_t marks, void *arg), void *arg)
{
	uint32_t used = atomic_load(&tab.sh->used);

	for (uint32_t i = 1; i < used; i++) {
		struct inode *ino = &tab.sh->entries[i];
		uint32_t marks = atomic_load(&ino->marks);

		if (marks != 0 && atomic_load(&ino->valid))
			fn(ino, marks, arg);
	}
}

void
inode_each_place(
	enum place_kind kind, void (*fn)(uint64_t nodeid, void *arg), void *arg)
{
	uint32_t used = atomic_load(&tab.sh->used);

	for (uint32_t i = 1; i < used; i++) {
		struct inode *ino = &tab.sh->entries[i];

		if (atomic_load(&ino->valid) && inode_place(ino).kind == kind)
			fn(inode_nodeid(ino), arg);
	}
}

int
inode_pin(struct inode *ino)
{
	int fd, err;

	if (inode_own(ino)->pin > 0)
		return 0;
	fd = inode_open_handle(ino, O_PATH | O_NOFOLLOW);
	if (fd < 0)
		return errno;
	err = super_pin(tab.su, inode_nodeid(ino), fd);
	if (err == EPIPE || err == ECONNRESET || err == ENOTCONN)
		err = 0; /* no supervisor, no next server: ours is all there is */
	if (err != 0) {
		close(fd);
		return err;
	}
	pthread_mutex_lock(&inode_tab.lock);
	if (inode_own(ino)->pin == 0) {
		inode_own(ino)->pin = fd + 1;
		fd = -1;
	}
	pthread_mutex_unlock(&inode_tab.lock);
	if (fd >= 0)
		close(fd);
	return 0;
}

struct inode *
inode_by_handle(const struct slot_handle *handle)
{
	struct inode *ino = NULL;

	if (handle->len == 0)
		return NULL;
	pthread_mutex_lock(&inode_tab.lock);
	ino = inode_find(handle);
	pthread_mutex_unlock(&inode_tab.lock);
	return ino;
}

/* ---- start ---- */

size_t
inode_shared_size(uint32_t max_entries)
{
	return sizeof(struct inode_shared) + (size_t)max_entries * sizeof(struct inode);
}

void
inode_shared_init(struct inode_shared *sh, uint32_t max_entries)
{
	sh->max = max_entries;
	atomic_store(&sh->used, INODE_ROOT + 1);
}

static int
enter_root(void)
{
	struct inode *root = &tab.sh->entries[INODE_ROOT];
	struct slot_handle h;
	int err = inode_handle_at(inode_tab.root_fd, "", &h);

	if (err != 0 || h.len == 0)
		return err != 0 ? err : ESTALE;
	root->type = S_IFDIR >> 12;
	atomic_store(&root->place, pack(PLACE_AT_ROOT));
	root->handle_type = h.type;
	root->handle_len = (uint8_t)h.len;
	memcpy(root->handle, h.bytes, h.len);
	atomic_store(&root->valid, 1);
	return 0;
}

static void
take_pin(uint64_t nodeid, int fd, void *arg)
{
	struct inode *ino = inode_get(nodeid);

	(void)arg;
	if (ino != NULL) {
		inode_own(ino)->pin = fd + 1;
	} else {
		close(fd);
		super_unpin(tab.su, nodeid);
	}
}

static int
rebuild(void)
{
	uint32_t used = atomic_load(&tab.sh->used), nbuckets = BUCKETS_FIRST;

	redo_run();
	for (uint32_t i = used - 1; i >= 1; i--) {
		struct inode *ino = &tab.sh->entries[i];

		if (atomic_load(&ino->valid) &&
			(i == INODE_ROOT || ino->nlookup > 0 ||
				atomic_load(&ino->marks) != 0)) {
			tab.count++;
		} else {
			atomic_store(&ino->valid, 0);
			tab.free[tab.nfree++] = i;
		}
	}
	while (nbuckets < tab.count)
		nbuckets *= 2;
	return rehash(nbuckets);
}

int
inode_start(struct inode_shared *sh, struct super *su, int root_fd, unsigned max_fds)
{
	int err;

	tab.sh = sh;
	tab.su = su;
	inode_tab.root_fd = root_fd;
	tab.free = sparse(sh->max * sizeof(*tab.free));
	inode_tab.own = sparse(sh->max * sizeof(*inode_tab.own));
	if (tab.free == NULL || inode_tab.own == NULL)
		return ERR_NOMEM;
	if (inode_fd_start(max_fds) != 0)
		return ERR_NOMEM;
	inode_claims_start(&sh->claims);
	err = enter_root();
	if (err != 0) {
		log_err("the spool's root cannot be entered error=%s", strerror(err));
		return err_from_errno(err);
	}
	if (rebuild() != 0)
		return ERR_NOMEM;
	super_each_pin(su, take_pin, NULL);
	return 0;
}
