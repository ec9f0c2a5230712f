/*
 * ring.c - the threads that serve the kernel's queues.
 *
 * The kernel takes the entry that came back last. So of a queue's threads the one that runs is the
 * one that ran just now, and the others sleep until several requests of one core are under way:
 * nobody hands anything to anybody. A handler that sleeps (a disk, a peer) keeps its thread and its entry,
 * and the next request of that core gets another. When all are taken, the core's requests wait in
 * the kernel. A request that is answered later from elsewhere keeps its thread asleep until then,
 * since the answer must be put in by the thread that owns the ring.
 *
 * In the slot's memory:   | short request ... |        payload         |
 *                         bytes               bytes + SLOT_HEAD
 *
 * The kernel delivers a request in three parts: its header and what is special to its kind into
 * struct uring_head, the rest as payload. libfuse wants it in one piece. A short one is copied
 * together at the front, which leaves the payload's room free for a large answer; of a long one (a
 * WRITE) the two heads are put right before the payload, which stays where it is.
 *
 * Threads are made, and their rings opened, before INIT is answered: then it is known whether they
 * can be had, and the kernel, once told, sends nothing until all queues are there.
 */
#include "fs/ring.h"

#include "fs/cred.h"
#include "fs/slot.h"
#include "fs/slot_own.h"
#include "fs/stats.h"
#include "fs/uring.h"
#include "meta/base/clock.h"
#include "meta/base/log.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Each core's share of TOTAL, within limits. With CORES_MAX cores that is still two each. */
enum { TOTAL = 64, EACH_MIN = 2, EACH_MAX = 32, CORES_MAX = 64 };

struct entry {
	struct uring uring;
	struct uring_head head;
	pthread_t thread;
	sem_t answered;
	atomic_int left; /* handler to return, answer to be given */
	unsigned core;
	int slot, err;
	uint32_t opcode;
	uint64_t since; /* when it came, us */
};

static struct {
	int dev_fd;
	unsigned cores, n;
	struct entry *entries;
	pthread_mutex_t lock;
	pthread_cond_t moved;
	unsigned reports; /* threads that have come to the next step */
	enum { OPENING, REGISTERING, GIVEN_UP } step;
} rg = { .lock = PTHREAD_MUTEX_INITIALIZER, .moved = PTHREAD_COND_INITIALIZER };

/* ---- how many ---- */

/* Cores that could be there, which is what the kernel counts queues by: "0-7" or "0". 0 if it is
 * anything else: with a queue too few the kernel would wait for ever and send nothing. */
static unsigned
possible_cores(void)
{
	FILE *f = fopen("/sys/devices/system/cpu/possible", "re");
	char text[64] = "", end = '\0';
	unsigned last = 0;

	if (f == NULL)
		return 0;
	if (fgets(text, sizeof(text), f) == NULL)
		text[0] = '\0';
	fclose(f);
	if (strcmp(text, "0\n") == 0)
		return 1;
	if (sscanf(text, "0-%u%c", &last, &end) == 2 && end == '\n' && last < CORES_MAX)
		return last + 1;
	return 0;
}

static unsigned
entries_each(unsigned cores)
{
	unsigned each = cores > 0 ? TOTAL / cores : 0;

	return each > EACH_MAX ? EACH_MAX : each < EACH_MIN ? EACH_MIN : each;
}

unsigned
ring_entries(void)
{
	unsigned cores = possible_cores();

	return cores * entries_each(cores);
}

/* ---- one request ---- */

/* Puts the request together; at_out is where it begins in the slot's bytes. False if its lengths
 * contradict each other. */
static bool
compose(struct entry *e, size_t *at_out)
{
	struct fuse_in_header in;
	uint8_t *bytes = slot_bytes(e->slot);
	size_t payload = e->head.payload_size, op, at = 0;

	memcpy(&in, e->head.in_out, sizeof(in));
	if (payload > slot_payload_size() || in.len < sizeof(in) + payload ||
		in.len - sizeof(in) - payload > URING_OP)
		return false;
	op = in.len - sizeof(in) - payload;
	if (in.opcode == FUSE_WRITE || in.len > SLOT_HEAD)
		at = SLOT_HEAD - op - sizeof(in);
	else
		memcpy(bytes + sizeof(in) + op, bytes + SLOT_HEAD, payload);
	memcpy(bytes + at, &in, sizeof(in));
	memcpy(bytes + at + sizeof(in), e->head.op_in, op);
	*at_out = at;
	return true;
}

static void
put_answer(struct entry *e, const struct fuse_out_header *out, size_t payload)
{
	memcpy(e->head.in_out, out, sizeof(*out));
	e->head.payload_size = (uint32_t)payload;
}

static void
refuse(struct entry *e, uint64_t unique, int err)
{
	struct fuse_out_header out = {
		.len = sizeof(out), .error = -err, .unique = unique
	};

	put_answer(e, &out, 0);
}

/* To where the commit takes it from. 0, or an errno that is the answer instead. */
static int
put_payload(uint8_t *payload, const struct iovec *iov, int count, size_t *size_out)
{
	size_t n = 0;

	for (int k = 1; k < count; k++) {
		if (iov[k].iov_len > slot_payload_size() - n)
			return EIO;
		/* what was built in slot_room is there already */
		if (iov[k].iov_len > 0 && iov[k].iov_base != payload + n)
			memmove(payload + n, iov[k].iov_base, iov[k].iov_len);
		n += iov[k].iov_len;
	}
	*size_out = n;
	return 0;
}

ssize_t
ring_answer(int i, const struct iovec *iov, int count)
{
	struct entry *e = &rg.entries[i - slot_first_ring()];
	const struct fuse_out_header *out = iov[0].iov_base;
	ssize_t taken = out->len;
	size_t n = 0;
	int err = put_payload(slot_bytes(i) + SLOT_HEAD, iov, count, &n);

	slot_served(i);
	if (err != 0) {
		log_err("an answer longer than the ring's memory unique=%llu",
			(unsigned long long)out->unique);
		refuse(e, out->unique, err);
	} else {
		put_answer(e, out, n);
	}
	if (out->error != 0 || err != 0)
		inode_grants_undo(slot_at(i));
	stats_answer(e->opcode, clock_us() - e->since);
	if (atomic_fetch_sub(&e->left, 1) == 1)
		sem_post(&e->answered);
	return taken;
}

/* Carries out what the entry holds and returns when its answer is in place. */
static void
serve_one(struct entry *e)
{
	struct fuse_in_header *in = (void *)e->head.in_out;
	size_t at;

	if (!compose(e, &at)) {
		log_err("a request of strange lengths opcode=%u len=%u payload=%u",
			in->opcode, in->len, e->head.payload_size);
		refuse(e, in->unique, EIO);
		return;
	}
	e->opcode = in->opcode;
	e->since = clock_us();
	stats_request(e->opcode);
	atomic_store(&e->left, 2);
	slot_serve(e->slot, at);
	if (atomic_fetch_sub(&e->left, 1) == 1)
		return;
	while (sem_wait(&e->answered) != 0 && errno == EINTR)
		continue;
}

/* ---- threads ---- */

/* Tells the one who waits that this thread has come so far; with what, is in e->err. */
static void
report(void)
{
	pthread_mutex_lock(&rg.lock);
	rg.reports++;
	pthread_cond_broadcast(&rg.moved);
	pthread_mutex_unlock(&rg.lock);
}

static bool
await_step(void)
{
	pthread_mutex_lock(&rg.lock);
	while (rg.step == OPENING)
		pthread_cond_wait(&rg.moved, &rg.lock);
	bool go = rg.step == REGISTERING;
	pthread_mutex_unlock(&rg.lock);
	return go;
}

static void
stay_on_core(unsigned core)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(core, &set);
	/* one that is not there now, or forbidden to us, has its requests served elsewhere */
	(void)sched_setaffinity(0, sizeof(set), &set);
}

static bool
mount_ended(int err)
{
	return err == ENOTCONN || err == ECONNABORTED || err == ENODEV ||
	       err == ECANCELED;
}

static void *
serve(void *arg)
{
	struct entry *e = arg;
	int err;

	cred_thread();
	stay_on_core(e->core);
	e->err = uring_open(&e->uring, rg.dev_fd);
	report();
	if (!await_step()) {
		uring_close(&e->uring);
		return NULL;
	}
	e->err = uring_register(&e->uring, e->core, &e->head,
		slot_bytes(e->slot) + SLOT_HEAD, slot_payload_size());
	err = e->err;
	report();
	if (err == 0)
		err = uring_wait(&e->uring);
	while (err == 0) {
		uint64_t id = e->head.commit_id;

		serve_one(e);
		err = uring_commit(&e->uring, id);
	}
	if (!mount_ended(err))
		log_err("a ring entry has failed core=%u error=%s", e->core,
			strerror(err));
	uring_close(&e->uring);
	return NULL;
}

/* Until all have reported; the first error of any, or 0. Lock held. */
static int
await_reports(void)
{
	while (rg.reports < rg.n)
		pthread_cond_wait(&rg.moved, &rg.lock);
	rg.reports = 0;
	for (unsigned i = 0; i < rg.n; i++)
		if (rg.entries[i].err != 0)
			return rg.entries[i].err;
	return 0;
}

static void
take_step(int step)
{
	pthread_mutex_lock(&rg.lock);
	rg.step = step;
	pthread_cond_broadcast(&rg.moved);
	pthread_mutex_unlock(&rg.lock);
}

void
ring_join(void)
{
	for (unsigned i = 0; i < rg.n; i++) {
		pthread_join(rg.entries[i].thread, NULL);
		sem_destroy(&rg.entries[i].answered);
	}
	rg.n = 0;
	free(rg.entries);
	rg.entries = NULL;
}

static int
start_threads(void)
{
	unsigned each, all;

	rg.cores = possible_cores();
	each = entries_each(rg.cores);
	all = rg.cores * each;
	rg.step = OPENING;
	rg.entries = calloc(all, sizeof(*rg.entries));
	if (rg.entries == NULL)
		return ENOMEM;
	for (rg.n = 0; rg.n < all; rg.n++) {
		struct entry *e = &rg.entries[rg.n];

		e->core = rg.n / each;
		e->slot = slot_first_ring() + (int)rg.n;
		sem_init(&e->answered, 0, 0);
		if (pthread_create(&e->thread, NULL, serve, e) != 0)
			return EAGAIN;
	}
	return 0;
}

/* Every thread with its ring: 0, or the first error of any. */
static int
open_all(int dev_fd)
{
	int started, opened;

	rg.dev_fd = dev_fd;
	started = start_threads();
	pthread_mutex_lock(&rg.lock);
	opened = await_reports();
	pthread_mutex_unlock(&rg.lock);
	if (started == 0 && opened == 0)
		return 0;
	take_step(GIVEN_UP);
	ring_join();
	return started != 0 ? started : opened;
}

bool
ring_offer(int dev_fd, const struct fuse_in_header *asked, const struct iovec *iov,
	int count, struct ring_init *a)
{
	const struct fuse_init_in *in = (const void *)(asked + 1);
	int rc;

	if (count != 2 || iov[0].iov_len != sizeof(a->head) ||
		iov[1].iov_len != sizeof(a->out))
		return false; /* no session comes of it */
	if (asked->len < sizeof(*asked) + offsetof(struct fuse_init_in, unused) ||
		(in->flags & FUSE_INIT_EXT) == 0 ||
		(in->flags2 & URING_INIT_FLAG2) == 0) {
		log_info("transport=dev: the kernel does not offer io_uring, see its "
			 "parameter fuse.enable_uring");
		return false;
	}
	rc = open_all(dev_fd);
	if (rc != 0) {
		log_info(
			"transport=dev: io_uring cannot be had error=%s", strerror(rc));
		return false;
	}
	memcpy(&a->head, iov[0].iov_base, sizeof(a->head));
	memcpy(&a->out, iov[1].iov_base, sizeof(a->out));
	a->out.flags |= FUSE_INIT_EXT;
	a->out.flags2 |= URING_INIT_FLAG2;
	a->iov[0] = (struct iovec){ &a->head, sizeof(a->head) };
	a->iov[1] = (struct iovec){ &a->out, sizeof(a->out) };
	return true;
}

/* The kernel sends by ring as soon as each core's queue has an entry, whatever became of others. */
static bool
each_core_has_one(void)
{
	unsigned core = 0;

	for (unsigned k = 0; k < rg.n; k++)
		if (rg.entries[k].err == 0 && rg.entries[k].core == core)
			core++;
	return core == rg.cores;
}

bool
ring_begin(bool sent)
{
	int rc;

	take_step(sent ? REGISTERING : GIVEN_UP);
	if (!sent) {
		ring_join();
		return false;
	}
	pthread_mutex_lock(&rg.lock);
	rc = await_reports();
	bool ready = each_core_has_one();
	pthread_mutex_unlock(&rg.lock);
	if (rc != 0)
		log_warn("the kernel refuses ring entries error=%s", strerror(rc));
	if (ready)
		log_info("transport=uring: requests come by ring cores=%u entries=%u",
			rg.cores, rg.n);
	else
		log_info("transport=dev: the kernel's rings are not complete");
	return ready;
}
