/*
 * slot.c - the request loop over slots in shared memory.
 *
 * Memory: a header page with the saved INIT, then for each slot its struct (whole pages) and its
 * bytes (SLOT_HEAD + max_write), into which the device is read. A large answer is built in the
 * same bytes behind SLOT_HEAD: the requests that have one (READ, READDIR, ...) are short.
 *
 * Two things must happen before a slot is free: its handler has returned, and its answer has
 * been sent. They may come from different threads and in either order; `left` counts them, and
 * who brings it to nothing frees the slot.
 *
 * Of the threads that have nothing to do only as many read as there are cores, and one; for the kernel
 * gives a request to the one that has waited longest, and a thread that ran just now has its stack
 * and the caches warm. When the last of them got a request it calls another, so however many
 * requests wait for a disk, one thread reads as long as there is any.
 *
 * What a death leaves: IDLE nothing. READING without a header nothing. READING or BEGUN with one: done
 * again. SAVED: sent again; its lookup counts stand, because the kernel takes each answer once and
 * an answer it no longer waits for is one it has had. Counts of an unsaved answer are undone.
 */
#include "fs/slot.h"

#include "fs/cred.h"
#include "fs/gate.h"
#include "fs/park.h"
#include "fs/ring.h"
#include "fs/slot_kind.h"
#include "fs/slot_own.h"
#include "fs/stats.h"
#include "fs/super.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/fault.h"
#include "meta/base/log.h"

#include <errno.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096
#define INIT_MAX 1024
#define THREADS_MAX 64
#define READERS_MAX 8
#define ROUND(n) (((n) + PAGE - 1) / PAGE * PAGE)

enum { IDLE, READING, BEGUN, SAVED };

struct slot_shared {
	uint32_t nslots; /* fed from the device */
	uint32_t nrings; /* the slots behind them: one for each ring entry */
	_Atomic uint32_t ring; /* the kernel was told to use rings */
	uint64_t bytes_size; /* of each slot's bytes */
	uint64_t init_unique;
	_Atomic uint32_t init_len; /* written last */
	_Atomic uint32_t init_done; /* the kernel has the answer */
	_Alignas(8) uint8_t init[INIT_MAX];
	struct park park;
};

/* Private to this server. */
struct own {
	atomic_int left; /* handler to return, answer to send */
	bool again; /* carried over a death */
	size_t head; /* where in the bytes the request begins; 0 unless a ring brought it */
	uint64_t since; /* when it was read, us */
	int next; /* in the free list or the list of what to do again; -1 ends */
};

static struct {
	struct slot_shared *sh;
	struct super *su;
	struct fuse_session *se;
	struct own *own;
	pthread_mutex_t lock; /* the lists and the threads */
	pthread_cond_t freed;
	int free, again;
	int parked; /* the next of those that the last server had parked; -1: none */
	pthread_t threads[THREADS_MAX];
	unsigned nthreads, wanted, waiting;
	pthread_cond_t called; /* to read, of those that are too many for it */
	unsigned idle, readers; /* that wait for it, and how many may read at a time */
	atomic_uint reading; /* in read(2), or on the way; grows under the lock */
	atomic_bool stop;
	int result;
	bool feeding; /* the saved INIT is being given to a new session */
} st = { .lock = PTHREAD_MUTEX_INITIALIZER,
	.freed = PTHREAD_COND_INITIALIZER,
	.called = PTHREAD_COND_INITIALIZER };

static _Thread_local int here = -1;

/* ---- layout ---- */

static size_t
slot_stride(const struct slot_shared *sh)
{
	return ROUND(sizeof(struct slot)) + sh->bytes_size;
}

struct slot *
slot_at(int i)
{
	return (struct slot *)((uint8_t *)st.sh + ROUND(sizeof(*st.sh)) +
			       (size_t)i * slot_stride(st.sh));
}

uint8_t *
slot_bytes(int i)
{
	return (uint8_t *)slot_at(i) + ROUND(sizeof(struct slot));
}

int
slot_first_ring(void)
{
	return (int)st.sh->nslots;
}

size_t
slot_payload_size(void)
{
	return st.sh->bytes_size - SLOT_HEAD;
}

static bool
by_ring(int i)
{
	return i >= slot_first_ring();
}

static struct fuse_in_header *
slot_header(int i)
{
	return (struct fuse_in_header *)(slot_bytes(i) + st.own[i].head);
}

size_t
slot_shared_size(unsigned nslots, unsigned nrings, size_t max_write)
{
	struct slot_shared sh = { .bytes_size = ROUND(SLOT_HEAD + max_write) };

	return ROUND(sizeof(sh)) + (nslots + nrings) * slot_stride(&sh);
}

void
slot_shared_init(
	struct slot_shared *sh, unsigned nslots, unsigned nrings, size_t max_write)
{
	sh->nslots = nslots;
	sh->nrings = nrings;
	sh->bytes_size = ROUND(SLOT_HEAD + max_write);
}

/* Every page present and writable in this process before the first read(2) into it. Those of rings
 * need not be: what they hold does not outlive the server. */
static int
lock_memory(void)
{
	size_t size = ROUND(sizeof(*st.sh)) + st.sh->nslots * slot_stride(st.sh);
	volatile uint8_t *p = (volatile uint8_t *)st.sh;

	if (mlock(st.sh, size) != 0) {
		log_err("cannot lock the request memory bytes=%zu error=%s", size,
			strerror(errno));
		return ERR_NOMEM;
	}
	for (size_t i = 0; i < size; i += PAGE)
		p[i] = p[i];
	return 0;
}

/* ---- the lists ---- */

static void
put_free(int i)
{
	pthread_mutex_lock(&st.lock);
	st.own[i].next = st.free;
	st.free = i;
	pthread_cond_signal(&st.freed);
	pthread_mutex_unlock(&st.lock);
}

/* What a slot knows of its request, for one that begins. */
static void
forget(int i)
{
	struct slot *s = slot_at(i);

	st.own[i].again = false;
	s->deaths = s->kills = 0;
	atomic_store(&s->tried, 0);
	s->ngrants = s->progress = 0;
	atomic_store(&s->unique, 0);
	atomic_store(&s->note.taken, 0);
}

/* The next one that the last server had parked, into slot i. Lock held. */
static void
unpark(int i)
{
	struct park *park = &st.sh->park;
	struct fuse_in_header *in = slot_header(i);
	int from = st.parked;

	forget(i);
	st.parked = park_next(park, from + 1);
	if (park_get(park, from, in, st.sh->bytes_size) >= sizeof(*in)) {
		st.own[i].again = true;
		atomic_store(&slot_at(i)->unique, in->unique);
		atomic_store_explicit(&slot_at(i)->state, BEGUN, memory_order_release);
		stats_add(STATS_REDONE, 1);
	}
	park_free(park, from);
}

/* Nothing to do but to read, and enough do that. Lock held. */
static bool
is_idle(void)
{
	return st.again < 0 && st.parked < 0 && !st.stop && st.reading >= st.readers;
}

/* A slot to work with: first what must be done again. -1 when the loop ends. */
static int
take(void)
{
	int i = -1;

	pthread_mutex_lock(&st.lock);
	for (;;) {
		if (is_idle()) {
			st.idle++;
			pthread_cond_wait(&st.called, &st.lock);
			st.idle--;
		} else if (st.again < 0 && st.free < 0 && !st.stop) {
			pthread_cond_wait(&st.freed, &st.lock);
		} else {
			break;
		}
	}
	if (st.stop) {
		i = -1;
	} else if (st.again >= 0) {
		i = st.again;
		st.again = st.own[i].next;
	} else {
		i = st.free;
		st.free = st.own[i].next;
		if (st.parked >= 0)
			unpark(i);
	}
	if (i >= 0 && !st.own[i].again)
		st.reading++;
	pthread_mutex_unlock(&st.lock);
	return i;
}

/* A thread has read. Was it the last that did, another is called, for nobody knows how long a request
 * will take. */
static void
has_read(void)
{
	if (atomic_fetch_sub(&st.reading, 1) != 1)
		return;
	pthread_mutex_lock(&st.lock);
	bool call = st.idle > 0;
	pthread_mutex_unlock(&st.lock);
	if (call)
		pthread_cond_signal(&st.called);
}

/* One of the two things has happened; true if it was the last and the slot is free now. */
static bool
one_done(int i)
{
	if (atomic_fetch_sub(&st.own[i].left, 1) != 1)
		return false;
	st.own[i].again = false;
	atomic_store(&slot_at(i)->state, IDLE);
	return true;
}

/* ---- answers ---- */

static int
find(uint64_t unique)
{
	if (here >= 0 && atomic_load(&slot_at(here)->unique) == unique)
		return here;
	for (int i = 0; i < (int)(st.sh->nslots + st.sh->nrings); i++) {
		if (atomic_load(&slot_at(i)->unique) == unique &&
			atomic_load(&slot_at(i)->state) == BEGUN)
			return i;
	}
	return -1;
}

static ssize_t
send_iov(const struct iovec *iov, int count)
{
	ssize_t n;

	do
		n = writev(st.su->dev_fd, iov, count);
	while (n < 0 && errno == EINTR);
	return n;
}

static ssize_t
send_saved(int i)
{
	struct slot *s = slot_at(i);
	struct iovec iov[2] = { { s->reply, s->reply_len },
		{ slot_bytes(i) + s->tail_off, s->tail_len } };

	return send_iov(iov, s->tail_len > 0 ? 2 : 1);
}

/*
 * Copies the answer into the slot, from where it is sent: memory that cannot fault, or a kill in
 * the middle of the kernel's copy would end the request with EIO. What was built in the slot's
 * bytes stays where it is. False if it does not fit.
 */
static bool
save(int i, const struct iovec *iov, int count)
{
	struct slot *s = slot_at(i);
	uint8_t *bytes = slot_bytes(i);

	s->reply_len = 0;
	s->tail_len = 0;
	for (int k = 0; k < count; k++) {
		const uint8_t *p = iov[k].iov_base;
		size_t n = iov[k].iov_len;

		if (n == 0)
			continue;
		if (p >= bytes && p + n <= bytes + st.sh->bytes_size &&
			k == count - 1) {
			s->tail_off = (uint32_t)(p - bytes);
			s->tail_len = (uint32_t)n;
		} else if (n <= SLOT_REPLY - s->reply_len) {
			memcpy(s->reply + s->reply_len, p, n);
			s->reply_len += (uint32_t)n;
		} else {
			return false;
		}
	}
	return true;
}

static ssize_t
send_parked(int i, const struct iovec *iov, int count)
{
	struct iovec reply = park_answer(&st.sh->park, i, iov, count);

	FAULT("slot.before-send");
	ssize_t n = send_iov(&reply, 1);
	int err = n < 0 ? errno : 0;
	FAULT("slot.after-send");
	park_free(&st.sh->park, i);
	errno = err;
	return n;
}

ssize_t
slot_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	const struct fuse_out_header *out = iov[0].iov_base;
	struct ring_init init;
	uint32_t opcode;
	ssize_t n;
	int i, err;

	(void)fd;
	(void)userdata;
	if (out->unique == 0) /* a notification */
		return send_iov(iov, count);
	if (st.feeding) { /* the kernel had this answer from an earlier server */
		n = 0;
		for (int k = 0; k < count; k++)
			n += (ssize_t)iov[k].iov_len;
		return n;
	}
	i = find(out->unique);
	if (i < 0 && (i = park_find(&st.sh->park, out->unique)) >= 0)
		return send_parked(i, iov, count);
	if (i < 0) {
		log_err("an answer without a request unique=%llu",
			(unsigned long long)out->unique);
		errno = ENOENT;
		return -1;
	}
	if (by_ring(i))
		return ring_answer(i, iov, count);
	if (out->error != 0)
		inode_grants_undo(slot_at(i));
	opcode = slot_header(i)->opcode;
	bool offered = opcode == FUSE_INIT && st.sh->nrings > 0 &&
		       ring_offer(st.su->dev_fd, slot_header(i), iov, count, &init);
	if (offered) {
		iov = init.iov;
		/* once the kernel knows it, a death would leave requests behind */
		atomic_store(&st.sh->ring, 1);
	}
	if (!save(i, iov, count)) {
		log_err("an answer too long to be saved opcode=%u", opcode);
		n = send_iov(iov, count);
	} else {
		if (!slot_kind_repeatable(opcode))
			atomic_store_explicit(
				&slot_at(i)->state, SAVED, memory_order_release);
		FAULT("slot.before-send");
		n = send_saved(i);
	}
	err = n < 0 ? errno : 0;
	FAULT("slot.after-send");
	if (err != 0)
		inode_grants_undo(slot_at(i));
	else if (out->unique == st.sh->init_unique)
		atomic_store(&st.sh->init_done, 1);
	if (offered && !ring_begin(err == 0))
		atomic_store(&st.sh->ring, 0);
	/* One that an earlier server had read has waited for a time that nobody measured. */
	if (!st.own[i].again)
		stats_answer(opcode, clock_us() - st.own[i].since);
	if (one_done(i))
		put_free(i);
	errno = err;
	return n;
}

ssize_t
slot_read(int fd, void *buf, size_t len, void *userdata)
{
	(void)userdata;
	return read(fd, buf, len);
}

/* ---- handlers' view ---- */

struct slot *
slot_current(void)
{
	return slot_at(here);
}

bool
slot_again(void)
{
	return st.own[here].again;
}

void
slot_note_take(const struct slot_handle *name, const struct slot_handle *newname,
	uint32_t word)
{
	struct slot_note *note = &slot_at(here)->note;

	if (atomic_load(&note->taken))
		return;
	memset(&note->name, 0, sizeof(note->name));
	memset(&note->newname, 0, sizeof(note->newname));
	if (name != NULL)
		note->name = *name;
	if (newname != NULL)
		note->newname = *newname;
	note->word = word;
	atomic_store_explicit(&note->taken, 1, memory_order_release);
}

void
slot_park(void)
{
	struct fuse_in_header *in = slot_header(here);

	if (by_ring(here) || !park_put(&st.sh->park, in->unique, in, in->len))
		return;
	FAULT("slot.parked");
	atomic_store(&slot_at(here)->unique, 0);
	in->unique = 0;
	in->len = 0;
	(void)one_done(here); /* its answer is no longer this slot's */
}

void *
slot_room(size_t *size_out)
{
	*size_out = st.sh->bytes_size - SLOT_HEAD;
	return slot_bytes(here) + SLOT_HEAD;
}

/* ---- the loop ---- */

/* The kernel stops sending INTERRUPT once it has been told that nobody handles it. */
static void
refuse(int i, int err)
{
	struct fuse_out_header out = {
		.len = sizeof(out), .error = -err, .unique = slot_header(i)->unique
	};
	struct iovec iov = { &out, sizeof(out) };

	(void)send_iov(&iov, 1);
}

static void
keep_init(int i)
{
	struct fuse_in_header *in = slot_header(i);

	if (in->len > INIT_MAX)
		return;
	memcpy(st.sh->init, in, in->len);
	st.sh->init_unique = in->unique;
	atomic_store_explicit(&st.sh->init_len, in->len, memory_order_release);
}

/* Gives the request to libfuse, which calls its handler. */
static void
handle(int i)
{
	struct fuse_in_header *in = slot_header(i);
	struct fuse_buf buf = { .size = in->len, .mem = in };
	unsigned turn = GATE_NONE;

	here = i;
	if (slot_kind_shows_attributes(in->opcode))
		turn = gate_begin();
	fuse_session_process_buf(st.se, &buf);
	if (turn != GATE_NONE)
		gate_end(turn);
	here = -1;
}

void
slot_serve(int i, size_t head)
{
	forget(i);
	st.own[i].head = head;
	atomic_store(&slot_at(i)->unique, slot_header(i)->unique);
	atomic_store_explicit(&slot_at(i)->state, BEGUN, memory_order_release);
	handle(i);
}

void
slot_served(int i)
{
	atomic_store_explicit(&slot_at(i)->state, IDLE, memory_order_release);
}

static void
carry_out(int i)
{
	struct slot *s = slot_at(i);
	struct fuse_in_header *in = slot_header(i);
	uint32_t opcode = in->opcode;

	atomic_store(&s->unique, in->unique);
	atomic_store(&s->tried, 1);
	atomic_store_explicit(&s->state, BEGUN, memory_order_release);
	atomic_store(&st.own[i].left, 2);
	FAULT("slot.begun");
	if (opcode == FUSE_INTERRUPT) {
		refuse(i, ENOSYS);
		(void)one_done(i);
	} else {
		if (opcode == FUSE_INIT)
			keep_init(i);
		handle(i);
		if (slot_kind_unanswered(opcode))
			(void)one_done(i);
	}
	if (one_done(i))
		put_free(i);
}

/* Reads one request; false when there was none. */
static bool
read_one(int i)
{
	struct slot *s = slot_at(i);
	struct fuse_in_header *in = slot_header(i);
	ssize_t n;

	forget(i);
	in->len = 0;
	in->unique = 0;
	atomic_store_explicit(&s->state, READING, memory_order_release);
	n = read(st.su->dev_fd, in, st.sh->bytes_size);
	has_read();
	if (n >= (ssize_t)sizeof(*in)) {
		stats_request(in->opcode);
		st.own[i].since = clock_us();
		return true;
	}
	atomic_store(&s->state, IDLE);
	if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT))
		return false;
	if (!atomic_exchange(&st.stop, true) && !(n < 0 && errno == ENODEV)) {
		log_err("reading from the device failed error=%s",
			n < 0 ? strerror(errno) : "short read");
		st.result = ERR_IO;
	}
	pthread_mutex_lock(&st.lock);
	pthread_cond_broadcast(&st.freed);
	pthread_cond_broadcast(&st.called);
	pthread_mutex_unlock(&st.lock);
	return false;
}

static void *
serve(void *arg)
{
	(void)arg;
	cred_thread();
	for (int i; (i = take()) >= 0;) {
		if (st.own[i].again || read_one(i))
			carry_out(i);
		else
			put_free(i);
	}
	return NULL;
}

/* One more thread, unless there are enough. Lock held. */
static void
start_thread(void)
{
	if (st.nthreads < THREADS_MAX && !st.stop &&
		pthread_create(&st.threads[st.nthreads], NULL, serve, NULL) == 0)
		st.nthreads++;
}

void
slot_wait_begin(void)
{
	if (here < 0 || by_ring(here)) /* the other entries of its core stand in */
		return;
	pthread_mutex_lock(&st.lock);
	/* a slot for each thread, and some for requests that are kept */
	if (st.nthreads - ++st.waiting < st.wanted && st.nthreads + 4 < st.sh->nslots)
		start_thread();
	pthread_mutex_unlock(&st.lock);
}

void
slot_wait_end(void)
{
	if (here < 0 || by_ring(here))
		return;
	pthread_mutex_lock(&st.lock);
	st.waiting--;
	pthread_mutex_unlock(&st.lock);
}

/* One for each core, and one that waits for the next request meanwhile. */
static unsigned
readers(void)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);

	return cores < 1 ? 2 : cores < READERS_MAX ? (unsigned)cores + 1 : READERS_MAX;
}

int
slot_run(unsigned threads)
{
	pthread_mutex_lock(&st.lock);
	st.wanted = threads < THREADS_MAX ? threads : THREADS_MAX;
	st.readers = readers();
	for (unsigned i = 0; i < st.wanted; i++)
		start_thread();
	bool none = st.nthreads == 0;
	pthread_mutex_unlock(&st.lock);
	if (none) {
		log_err("cannot start a thread");
		return ERR_NOMEM;
	}
	/* a thread may start others, but only before it ends itself */
	for (unsigned i = 0;; i++) {
		pthread_mutex_lock(&st.lock);
		bool more = i < st.nthreads;
		pthread_mutex_unlock(&st.lock);
		if (!more)
			break;
		pthread_join(st.threads[i], NULL);
	}
	ring_join();
	return st.result;
}

bool
slot_by_ring(const struct slot_shared *sh)
{
	return atomic_load(&sh->ring) != 0;
}

/* ---- after a death ---- */

/* Whether a request that was in flight may be tried once more. */
static bool
try_again(int i)
{
	struct slot *s = slot_at(i);
	struct fuse_in_header *in = slot_header(i);

	if (!atomic_exchange(&s->tried, 0))
		return true;
	if (st.su->death_signal == SIGKILL)
		s->kills++;
	else
		s->deaths++;
	if (s->deaths < SLOT_DEATHS_MAX && s->kills < SLOT_KILLS_MAX)
		return true;
	if (!slot_kind_unanswered(in->opcode)) {
		log_err("%u servers died with a request and it is refused opcode=%u "
			"nodeid=%llu unique=%llu pid=%u",
			s->deaths + s->kills, in->opcode,
			(unsigned long long)in->nodeid, (unsigned long long)in->unique,
			in->pid);
		refuse(i, EIO);
	}
	return false;
}

static void
take_over(int i)
{
	struct slot *s = slot_at(i);
	struct fuse_in_header *in = slot_header(i);
	uint32_t state = atomic_load(&s->state);

	if (state == SAVED) {
		stats_add(STATS_RESENT, 1);
		(void)send_saved(i);
		if (s->unique == st.sh->init_unique)
			atomic_store(&st.sh->init_done, 1);
	} else if (state != IDLE && in->len >= sizeof(*in) && in->unique != 0 &&
		   !(in->unique == st.sh->init_unique && st.sh->init_done)) {
		inode_grants_undo(s);
		if (try_again(i)) {
			stats_add(STATS_REDONE, 1);
			st.own[i].again = true;
			st.own[i].next = st.again;
			st.again = i;
			return;
		}
	}
	atomic_store(&s->state, IDLE);
	st.own[i].next = st.free;
	st.free = i;
}

int
slot_start(struct slot_shared *sh, struct super *su, struct fuse_session *se)
{
	uint32_t len;
	int rc;

	st.sh = sh;
	st.su = su;
	st.se = se;
	st.own = calloc(sh->nslots + sh->nrings, sizeof(*st.own));
	if (st.own == NULL)
		return ERR_NOMEM;
	rc = lock_memory();
	if (rc != 0)
		return rc;
	st.free = st.again = -1;
	st.parked = park_next(&sh->park, 0);
	for (int i = (int)sh->nslots - 1; i >= 0; i--)
		take_over(i);
	len = atomic_load_explicit(&sh->init_len, memory_order_acquire);
	if (len != 0 && sh->init_done) {
		struct fuse_buf buf = { .size = len, .mem = sh->init };

		st.feeding = true;
		fuse_session_process_buf(se, &buf);
		st.feeding = false;
	}
	return 0;
}
