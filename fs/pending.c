/*
 * A struct pending comes with the first write and goes when the journal has all of it:
 *
 *   touched   records or files were written, no header since      mark TOUCHED
 *   committed the whole header was written at offset 0            mark COMMITTED
 *   in flight handed to replication, its done call outstanding    marks stay
 *
 * Replication may find the files between two steps of their writer: a repack renames the index
 * before it commits the annotations, and is itself waiting for our answer. Then what was handed
 * on comes back and stays committed, for the sync that follows or for the tick.
 *
 * The record images are those before the first write since the last commit, read from the
 * backing file just before that write: as long as the mailbox was in the journal then, they are
 * the journaled state. If anything is unsure (a strange write, no memory, a decode error), the
 * commit is derived from the file instead, which costs a read of the index and is always right.
 *
 * The tick thread looks after what its writer left: a header that was never synced is synced by
 * us after a second, a touched mailbox without a header whose index nobody has locked was
 * aborted (F7.4), and is derived so that the journal says what later readers will see.
 *
 * What is derived without its writer waiting for us must not be half of a transaction: the list
 * of touches is taken first, then nobody may have the index locked (whoever wrote before has
 * written then), and after the reading nobody may have written again (sync asks).
 */
#include "fs/pending.h"
#include "fs/inode.h"
#include "fs/known_path.h"
#include "fs/stats.h"
#include "fs/unmount.h"
#include "meta/base/clock.h"
#include "meta/base/disk.h"
#include "meta/base/err.h"
#include "meta/base/fault.h"
#include "meta/base/log.h"
#include "meta/mbox.h"
#include "sync/sync.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BUCKETS = 1024, TOUCHED_MAX = 1 << 16, OLD_INDEX_MAX = 1 << 30 };
/* How long files that do not add up may be a writer's that is not through; then the mailbox is
 * set aside. The longer one is for a writer that still has the index locked. */
enum { PATIENCE_MS = 5000, LOCKED_MS = 60000, FLUSH_STEP_MS = 20 };
/* How often a commit is read that others disturb while its writer waits for it. */
enum { COMMIT_TRIES = 10 };

struct pending {
	struct pending *next; /* in its bucket */
	struct inode *dir; /* kept by its marks */
	uint64_t nodeid;
	unsigned users; /* under table_lock: threads that hold a pointer */
	pthread_mutex_t lock; /* contents */
	pthread_mutex_t order; /* held while a commit is handed on, taken first */
	struct mbox_touched *touched;
	size_t n, cap;
	bool sorted; /* they ascend */
	bool unsure, annots, names;
	bool dirty; /* touched since the last commit */
	bool committed; /* a header was written since the last commit */
	uint64_t touches; /* how often it was touched */
	uint64_t taken; /* under order too: touches when it was last handed on */
	bool awaited; /* under order: by its writer, who is through and has the lock */
	void *old_index;
	size_t old_size;
	unsigned in_flight;
	uint64_t since_ms; /* of the first touch, or of the header */
	uint64_t
		busy_ms; /* since when replication says that it is too early; 0: it does not */
};

static struct pending *buckets[BUCKETS];
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static struct sync *to;
static unsigned dev_major, dev_minor; /* of the mount; 0, 0: not known */
static _Atomic bool nobody_writes;
static pthread_t ticker;
static bool running;
static pthread_mutex_t tick_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t tick_cond = PTHREAD_COND_INITIALIZER;

static struct pending **
bucket_of(uint64_t nodeid)
{
	return &buckets[(nodeid ^ nodeid >> 10) % BUCKETS];
}

/* The pending of a folder, with a user counted; made if make is set. */
static struct pending *
get(struct inode *dir, bool make)
{
	uint64_t nodeid = inode_nodeid(dir);
	struct pending *p;

	pthread_mutex_lock(&table_lock);
	for (p = *bucket_of(nodeid); p != NULL && p->nodeid != nodeid; p = p->next)
		;
	if (p == NULL && make && (p = calloc(1, sizeof(*p))) != NULL) {
		p->dir = dir;
		p->nodeid = nodeid;
		pthread_mutex_init(&p->lock, NULL);
		pthread_mutex_init(&p->order, NULL);
		p->next = *bucket_of(nodeid);
		*bucket_of(nodeid) = p;
		inode_hold(dir);
	}
	if (p != NULL)
		p->users++;
	pthread_mutex_unlock(&table_lock);
	return p;
}

static void
put(struct pending *p)
{
	pthread_mutex_lock(&table_lock);
	p->users--;
	bool idle = p->users == 0 && p->in_flight == 0 && !p->dirty && !p->committed;
	if (idle) {
		struct pending **at = bucket_of(p->nodeid);
		while (*at != p)
			at = &(*at)->next;
		*at = p->next;
		inode_unmark(p->dir, PENDING_MARK_TOUCHED | PENDING_MARK_COMMITTED);
	}
	pthread_mutex_unlock(&table_lock);
	if (idle) {
		inode_drop(p->dir);
		pthread_mutex_destroy(&p->lock);
		pthread_mutex_destroy(&p->order);
		free(p->touched);
		free(p->old_index);
		free(p);
	}
}

static void
touch_locked(struct pending *p)
{
	if (!p->dirty && !p->committed)
		p->since_ms = clock_ms();
	p->dirty = true;
	p->touches++;
	inode_mark(p->dir, PENDING_MARK_TOUCHED);
}

static int
by_recno(const void *a, const void *b)
{
	const struct mbox_touched *x = a, *y = b;

	return x->recno < y->recno ? -1 : x->recno > y->recno;
}

/* Cyrus writes in ascending order, so a record is nearly always new, and found quickly if not. */
static bool
seen(const struct pending *p, uint32_t recno)
{
	struct mbox_touched key = { .recno = recno };

	if (p->n == 0 || (p->sorted && recno > p->touched[p->n - 1].recno))
		return false;
	if (p->sorted)
		return bsearch(&key, p->touched, p->n, sizeof(key), by_recno) != NULL;
	for (size_t i = p->n; i > 0; i--)
		if (p->touched[i - 1].recno == recno)
			return true;
	return false;
}

/* Remembers one record as it is before the write. */
static void
note_record(struct pending *p, int fd, const struct index_header *h, uint32_t recno)
{
	uint8_t raw[INDEX_MAX_RECORD];

	if (p->unsure || seen(p, recno))
		return;
	if (p->n == p->cap) {
		size_t cap = p->cap ? p->cap * 2 : 8;
		struct mbox_touched *more =
			cap > TOUCHED_MAX ? NULL
					  : realloc(p->touched, cap * sizeof(*more));
		if (more == NULL) {
			p->unsure = true;
			return;
		}
		p->touched = more;
		p->cap = cap;
	}
	struct mbox_touched *t = &p->touched[p->n];
	memset(t, 0, sizeof(*t));
	t->recno = recno;
	t->had = recno < h->num_records;
	if (t->had) {
		off_t at = (off_t)h->start_offset + (off_t)recno * h->record_size;
		if (pread(fd, raw, h->record_size, at) != (ssize_t)h->record_size ||
			index_record_decode(h->minor_version, raw, &t->before) != 0) {
			p->unsure = true;
			return;
		}
	}
	p->sorted = p->n == 0 || (p->sorted && recno > t[-1].recno);
	p->n++;
}

void
pending_index_write(struct inode *dir, int fd, off_t off, size_t len)
{
	uint8_t raw[INDEX_MAX_HEADER];
	struct index_header h;
	struct pending *p = get(dir, true);

	if (p == NULL) {
		/* Out of memory: the mark alone makes the next start derive it. */
		inode_mark(dir, PENDING_MARK_TOUCHED | PENDING_MARK_COMMITTED);
		log_err("out of memory noting a change; the mailbox is looked at again "
			"at the next start");
		return;
	}
	pthread_mutex_lock(&p->lock);
	touch_locked(p);
	ssize_t n = pread(fd, raw, sizeof(raw), 0);
	if (n < 0 || index_header_decode(raw, (size_t)n, &h) != 0) {
		/* A new index, or one copied in pieces by a rename (F7.3). */
		p->unsure = true;
		if (off == 0)
			p->committed = true;
	} else if (off == 0) {
		/* The whole header in one write is the commit; more in the same write, or
		 * less, is nothing Cyrus does to a live index. */
		p->committed = true;
		if (len != h.start_offset)
			p->unsure = true;
	} else if ((size_t)off < h.start_offset ||
		   ((size_t)off - h.start_offset) % h.record_size != 0 ||
		   len % h.record_size != 0 || len / h.record_size > TOUCHED_MAX) {
		p->unsure = true;
	} else {
		uint64_t first = ((uint64_t)off - h.start_offset) / h.record_size;
		for (size_t i = 0; i < len / h.record_size; i++)
			note_record(p, fd, &h, (uint32_t)(first + i));
	}
	if (p->committed) {
		inode_mark(dir, PENDING_MARK_COMMITTED);
		p->since_ms = clock_ms();
	}
	pthread_mutex_unlock(&p->lock);
	put(p);
}

void
pending_touch(struct inode *dir, bool annots)
{
	struct pending *p = get(dir, true);

	if (p == NULL) {
		inode_mark(dir, PENDING_MARK_TOUCHED);
		return;
	}
	pthread_mutex_lock(&p->lock);
	touch_locked(p);
	p->annots |= annots;
	p->names |= !annots;
	pthread_mutex_unlock(&p->lock);
	put(p);
}

void
pending_unsure(struct inode *dir)
{
	struct pending *p = get(dir, true);

	if (p == NULL) {
		inode_mark(dir, PENDING_MARK_TOUCHED);
		return;
	}
	pthread_mutex_lock(&p->lock);
	touch_locked(p);
	p->unsure = true;
	pthread_mutex_unlock(&p->lock);
	put(p);
}

void
pending_replace(struct inode *dir, int fd)
{
	struct pending *p = get(dir, true);
	off_t size = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;

	if (p == NULL) {
		inode_mark(dir, PENDING_MARK_TOUCHED | PENDING_MARK_COMMITTED);
		return;
	}
	pthread_mutex_lock(&p->lock);
	touch_locked(p);
	p->committed = true;
	p->annots = true;
	inode_mark(dir, PENDING_MARK_COMMITTED);
	free(p->old_index);
	p->old_index = NULL;
	p->old_size = 0;
	if (size > 0 && size < OLD_INDEX_MAX &&
		(p->old_index = malloc((size_t)size)) != NULL &&
		pread(fd, p->old_index, (size_t)size, 0) == size)
		p->old_size = (size_t)size;
	if (p->old_size == 0)
		p->unsure = true;
	pthread_mutex_unlock(&p->lock);
	put(p);
}

/* From the peer thread, or from within sync_commit. */
static void
on_done(void *arg)
{
	struct pending *p = arg;

	pthread_mutex_lock(&table_lock);
	p->in_flight--;
	pthread_mutex_unlock(&table_lock);
	put(p); /* the user that hand_on counted */
}

/* What c holds was not taken: it is pending again. Later touches make it unsure. */
static void
take_back(struct pending *p, const struct sync_commit *c, struct mbox_touched **touched,
	void **old_index)
{
	pthread_mutex_lock(&p->lock);
	if (p->n > 0) {
		p->unsure = true;
	} else {
		free(p->touched);
		p->touched = *touched;
		p->n = p->cap = c->n_touched;
		p->sorted = false;
		*touched = NULL;
	}
	if (*old_index != NULL) {
		/* The older of two is what the journal knows. */
		free(p->old_index);
		p->old_index = *old_index;
		p->old_size = c->old_size;
		*old_index = NULL;
	}
	p->unsure |= c->derive;
	p->annots |= c->annots;
	p->names |= c->names;
	p->dirty = p->committed = true;
	if (p->busy_ms == 0)
		p->busy_ms = clock_ms();
	pthread_mutex_unlock(&p->lock);
}

static bool index_is_locked(struct pending *p);
static bool sync_index(struct pending *p);

/* The same for what was not even tried: it stays what it was, and is derived. */
static void
leave(struct pending *p, const struct sync_commit *c, bool committed)
{
	pthread_mutex_lock(&p->lock);
	p->unsure = p->dirty = true;
	p->annots |= c->annots;
	p->committed |= committed;
	p->since_ms = clock_ms();
	pthread_mutex_unlock(&p->lock);
}

/* What replication asks of a reading, with the order lock held: see the top. */
static bool
disturbed(void *arg, bool odd)
{
	struct pending *p = arg;

	pthread_mutex_lock(&p->lock);
	bool touched = p->touches != p->taken;
	pthread_mutex_unlock(&p->lock);
	return touched || (odd && !p->awaited && index_is_locked(p));
}

/* Why something is handed on. */
enum why {
	WHY_COMMIT, /* its writer is through, and waits */
	WHY_LATE, /* it was committed, or too early, some time ago */
	WHY_FORCE, /* derive it even though nothing was committed */
};

/* Hands c in under the name that the folder has; an errno if that cannot be found. */
static int
commit_by_path(struct pending *p, struct sync_commit *c, int *rc_out)
{
	char path[BATCH_MAX_PATH];

	for (;;) {
		c->ticket = sync_names(to);
		int err = known_path(p->dir, c->ticket, path, sizeof(path));
		if (err != 0)
			return err;
		FAULT("pending.path-found");
		c->dir = path;
		*rc_out = sync_commit(to, c);
		if (*rc_out != ERR_NOTFOUND)
			return 0;
		/* The folder, or one above it, was moved meanwhile. */
		sync_names_wait(to, path);
	}
}

/* Gives what is pending to replication. The caller holds a user of p. kinds_out: what it was. An
 * errno if the folder cannot be found for the moment; then all stays pending. */
static int
hand_on(struct pending *p, enum why why, unsigned *kinds_out)
{
	bool force = why == WHY_FORCE;
	unsigned kinds = SYNC_ALL_KINDS;
	struct sync_commit c = { .kinds_out = kinds_out != NULL ? kinds_out : &kinds };
	struct mbox_touched *touched;
	void *old_index;
	int rc = 0;

	pthread_mutex_lock(&p->order);
	pthread_mutex_lock(&p->lock);
	if (!p->committed && !force) {
		pthread_mutex_unlock(&p->lock);
		pthread_mutex_unlock(&p->order);
		return 0;
	}
	touched = p->touched;
	old_index = p->old_index;
	c.touched = touched;
	c.n_touched = p->n;
	c.derive = p->unsure || force;
	c.annots = p->annots || force;
	c.names = p->names;
	c.old_index = old_index;
	c.old_size = p->old_size;
	bool committed = p->committed;
	p->taken = p->touches;
	p->awaited = why == WHY_COMMIT;
	p->touched = NULL;
	p->n = p->cap = 0;
	p->unsure = p->annots = p->names = p->dirty = p->committed = false;
	p->old_index = NULL;
	p->old_size = 0;
	uint64_t waited = p->busy_ms == 0 ? 0 : clock_ms() - p->busy_ms;
	pthread_mutex_unlock(&p->lock);
	c.patient =
		!nobody_writes &&
		(waited < PATIENCE_MS || (waited < LOCKED_MS && index_is_locked(p)));
	c.locked = c.patient && c.derive && index_is_locked(p);
	/* The journal never says what is not on disk. */
	if ((c.locked && why != WHY_COMMIT) || (force && !sync_index(p))) {
		leave(p, &c, committed);
		pthread_mutex_unlock(&p->order);
		free(touched);
		free(old_index);
		return 0;
	}

	pthread_mutex_lock(&table_lock);
	p->in_flight++;
	p->users++;
	pthread_mutex_unlock(&table_lock);
	c.disturbed = disturbed;
	c.done = on_done;
	c.done_arg = p;
	FAULT("capture.before-journal");
	int err = commit_by_path(p, &c, &rc);
	bool gone = inode_is_gone(err); /* its removal was a commit of its own */
	if (gone)
		err = 0;
	if (err != 0 || rc == ERR_BUSY) {
		take_back(p, &c, &touched, &old_index);
		on_done(p);
	} else {
		pthread_mutex_lock(&p->lock);
		p->busy_ms = 0;
		pthread_mutex_unlock(&p->lock);
		if (gone)
			on_done(p);
	}
	pthread_mutex_unlock(&p->order);
	free(touched);
	free(old_index);
	return err;
}

/* Did somebody touch the mailbox while its commit was read, so that it came back? What its writer waits
 * for is not the touch, but that commit. */
static bool
came_back(struct pending *p)
{
	pthread_mutex_lock(&p->lock);
	bool back = p->committed && p->busy_ms != 0 && p->touches != p->taken;
	pthread_mutex_unlock(&p->lock);
	return back;
}

int
pending_commit(struct inode *dir, unsigned *kinds_out)
{
	struct pending *p = get(dir, false);
	unsigned tries = 1;

	*kinds_out = SYNC_ALL_KINDS;
	if (p == NULL)
		return 0;
	int err = hand_on(p, WHY_COMMIT, kinds_out);
	while (err == 0 && came_back(p) && tries++ < COMMIT_TRIES && sync_index(p))
		err = hand_on(p, WHY_COMMIT, kinds_out);
	put(p);
	return err;
}

void
pending_retry(struct inode *dir)
{
	struct pending *p = get(dir, false);

	if (p == NULL)
		return;
	pthread_mutex_lock(&p->lock);
	bool busy = p->busy_ms != 0;
	pthread_mutex_unlock(&p->lock);
	if (busy)
		(void)hand_on(p, WHY_LATE, NULL);
	put(p);
}

void
pending_stir(struct inode *dir)
{
	uint64_t nodeid = inode_nodeid(dir);
	struct pending *p;

	pthread_mutex_lock(&table_lock);
	for (p = *bucket_of(nodeid); p != NULL && p->nodeid != nodeid; p = p->next)
		;
	if (p != NULL) {
		pthread_mutex_lock(&p->lock);
		if (p->busy_ms != 0)
			p->busy_ms = clock_ms();
		pthread_mutex_unlock(&p->lock);
	}
	pthread_mutex_unlock(&table_lock);
}

bool
pending_is(struct inode *dir)
{
	uint64_t nodeid = inode_nodeid(dir);
	struct pending *p;

	pthread_mutex_lock(&table_lock);
	for (p = *bucket_of(nodeid); p != NULL && p->nodeid != nodeid; p = p->next)
		;
	pthread_mutex_unlock(&table_lock);
	return p != NULL;
}

void
pending_derive(struct inode *dir)
{
	struct pending *p = get(dir, true);

	if (p == NULL)
		return;
	inode_mark(dir, PENDING_MARK_TOUCHED);
	(void)hand_on(p, WHY_FORCE, NULL);
	put(p);
}

static bool
any_busy(void)
{
	bool busy = false;

	for (unsigned i = 0; i < BUCKETS && !busy; i++) {
		pthread_mutex_lock(&table_lock);
		for (struct pending *p = buckets[i]; p != NULL && !busy; p = p->next) {
			pthread_mutex_lock(&p->lock);
			busy = p->committed && p->busy_ms != 0;
			pthread_mutex_unlock(&p->lock);
		}
		pthread_mutex_unlock(&table_lock);
	}
	return busy;
}

/* Syncs an index that its writer did not; by name, since the kernel may have forgotten it. False:
 * it is there and not on disk, so it must not be journaled. */
static bool
sync_index(struct pending *p)
{
	int dirfd, fd;

	int err = inode_fd(p->dir, INODE_ANY, &dirfd);
	if (err == 0) {
		fd = openat(dirfd, "cyrus.index",
			O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
		err = fd < 0 ? errno : 0;
		inode_fd_put(p->dir, dirfd);
	}
	if (inode_is_gone(err))
		return true;
	if (err != 0) {
		log_err("an index cannot be opened to be synced: %s", strerror(err));
		return false;
	}
	bool done = disk_sync(fd, DISK_INDEX) == 0;
	if (!done)
		log_err("sync of an index failed: %s", strerror(errno));
	close(fd);
	return done;
}

/* Locks stay in the kernel (design 3.5); /proc/locks shows them by device and inode number. */
static bool
index_is_locked(struct pending *p)
{
	struct stat st;
	struct inode *index = NULL;
	char line[256], want[64];
	bool found = false;

	if (inode_peek(p->dir, "cyrus.index", &st, &index) != 0)
		return false;
	FILE *f = fopen("/proc/locks", "re");
	if (f == NULL)
		return true;
	if (dev_major + dev_minor != 0)
		snprintf(want, sizeof(want), " %02x:%02x:%" PRIu64 " ", dev_major,
			dev_minor, (uint64_t)st.st_ino);
	else
		snprintf(want, sizeof(want), ":%" PRIu64 " ", (uint64_t)st.st_ino);
	while (!found && fgets(line, sizeof(line), f) != NULL)
		found = strstr(line, "WRITE") != NULL && strstr(line, want) != NULL;
	fclose(f);
	return found;
}

static void
look_after(struct pending *p, uint64_t now, bool flush)
{
	pthread_mutex_lock(&p->lock);
	uint64_t age = now - p->since_ms;
	bool committed = p->committed, dirty = p->dirty, busy = p->busy_ms != 0;
	pthread_mutex_unlock(&p->lock);

	if (committed && (flush || busy || age >= PENDING_SYNC_MS)) {
		if (sync_index(p)) {
			(void)hand_on(p, WHY_LATE, NULL);
			return;
		}
		pthread_mutex_lock(&p->lock);
		p->since_ms = clock_ms();
		pthread_mutex_unlock(&p->lock);
	} else if (!committed && dirty && (flush || age >= PENDING_ABORT_MS)) {
		(void)hand_on(p, WHY_FORCE, NULL);
	}
}

/* The first pending at or behind *at whose successor is asked for, with a user counted; the user
 * of p is given back. */
static struct pending *
next_of(struct pending *p, unsigned *at)
{
	struct pending *next;

	pthread_mutex_lock(&table_lock);
	next = p != NULL ? p->next : buckets[*at];
	while (next == NULL && ++*at < BUCKETS)
		next = buckets[*at];
	if (next != NULL)
		next->users++;
	pthread_mutex_unlock(&table_lock);
	if (p != NULL)
		put(p);
	return next;
}

static void
look_after_all(bool flush)
{
	uint64_t now = clock_ms();
	unsigned at = 0;

	for (struct pending *p = next_of(NULL, &at); p != NULL; p = next_of(p, &at))
		look_after(p, now, flush);
}

void
pending_flush(bool final)
{
	uint64_t until = clock_ms() + PATIENCE_MS;

	if (!running)
		return;
	nobody_writes = final;
	look_after_all(true);
	/* What came back will go with its writer's next step. Who waits for it, waits for that. */
	while (any_busy() && clock_ms() < until) {
		usleep(FLUSH_STEP_MS * 1000);
		look_after_all(true);
	}
	nobody_writes = false;
}

static void *
tick(void *arg)
{
	(void)arg;
	pthread_mutex_lock(&tick_lock);
	while (running) {
		struct timespec until = clock_until(100);
		clock_wait(&tick_cond, &tick_lock, &until);
		if (!running)
			break;
		pthread_mutex_unlock(&tick_lock);
		look_after_all(false);
		pthread_mutex_lock(&tick_lock);
	}
	pthread_mutex_unlock(&tick_lock);
	return NULL;
}

static void
derive_marked(struct inode *ino, uint32_t marks, void *arg)
{
	unsigned *n = arg;
	struct pending *p;

	if ((marks & (PENDING_MARK_TOUCHED | PENDING_MARK_COMMITTED)) == 0)
		return;
	(*n)++;
	/* Its writer may be waiting for us in the sync of a header, with the index locked: then that
	 * sync, which is done again, hands it on. */
	if ((marks & PENDING_MARK_COMMITTED) != 0 && (p = get(ino, true)) != NULL) {
		pthread_mutex_lock(&p->lock);
		touch_locked(p);
		p->committed = p->unsure = p->annots = true;
		pthread_mutex_unlock(&p->lock);
		put(p);
	}
	pending_derive(ino);
}

int
pending_start(struct sync *sync, const char *mountpoint)
{
	struct mount_place *place = malloc(sizeof(*place));
	unsigned n = 0;

	to = sync;
	if (place != NULL && unmount_find(mountpoint, place) == 0) {
		dev_major = place->major;
		dev_minor = place->minor;
	}
	free(place);
	inode_each_marked(derive_marked, &n);
	if (n > 0)
		log_info("mailboxes derived after the last server's death: n=%u", n);
	running = true;
	int rc = pthread_create(&ticker, NULL, tick, NULL);
	if (rc != 0) {
		running = false;
		log_err("cannot start a thread: %s", strerror(rc));
		return ERR_NOMEM;
	}
	return 0;
}

void
pending_stop(void)
{
	if (!running)
		return;
	pthread_mutex_lock(&tick_lock);
	running = false;
	pthread_cond_signal(&tick_cond);
	pthread_mutex_unlock(&tick_lock);
	pthread_join(ticker, NULL);
}
