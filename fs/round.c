/*
 * Debts are tickets: a number that grows with each sync put off. A mailbox has the ticket of its
 * last debt, in a table that several mailboxes may share a place of; that costs a wait too many and
 * never one too few. Everything up to `paid` is durable, since a round covers all that was owed when
 * it began.
 *
 * One syncfs for a body, a cache and whatever others owe took less time under Cyrus than a sync of
 * each of these files, with one connection as with sixteen (decision 0009). Only an index that asks
 * alone, as after a change of flags, is synced by itself.
 *
 * The end of a round wakes those who were in it, and one of the next, who leads that; without the lock,
 * or they would wake only to wait for it.
 */
#include "fs/round.h"

#include "fs/slot.h"
#include "fs/stats.h"
#include "meta/base/clock.h"
#include "meta/base/disk.h"
#include "meta/base/err.h"
#include "meta/base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PLACES = 4096 };

struct round_shared {
	_Atomic uint64_t owed, paid; /* tickets */
	_Atomic uint64_t all; /* the last one that every mailbox owes */
	_Atomic uint64_t bad_from, bad_to; /* those of rounds that failed; 0 for none */
	_Atomic uint64_t of[PLACES];
};

/* One round, from the first who joins it until the last who has read its result. */
struct round {
	pthread_cond_t over; /* or nobody leads it */
	unsigned users;
	bool done;
	int err;
	int fd; /* the index that asked, or -1 */
	bool whole; /* another one did too, or somebody pays debts */
};

static struct {
	struct round_shared *sh;
	int root_fd;
	bool put_off;
	pthread_mutex_t lock;
	pthread_cond_t stops;
	bool running, stop, has_thread;
	struct round *next; /* that which begins when the present one is over */
	pthread_t thread;
} r = { .lock = PTHREAD_MUTEX_INITIALIZER, .stops = PTHREAD_COND_INITIALIZER };

size_t
round_shared_size(void)
{
	return sizeof(struct round_shared);
}

static _Atomic uint64_t *
ticket_of(struct inode *dir)
{
	uint64_t id = inode_nodeid(dir);

	return &r.sh->of[(id ^ id >> 12) % PLACES];
}

static int
sync_alone(int fd, bool datasync, enum disk_what what)
{
	return (datasync ? disk_datasync(fd, what) : disk_sync(fd, what)) == 0 ? 0
									       : errno;
}

static int
sync_whole(void)
{
	return disk_sync_all(r.root_fd) == 0 ? 0 : errno;
}

/* The debts up to this ticket may be lost. Lock held. */
static void
round_failed(uint64_t ticket, int err)
{
	if (r.sh->bad_to == 0) {
		r.sh->bad_from = r.sh->paid + 1;
		log_err("the disk did not keep what was written: mailboxes with mail "
			"under way "
			"refuse changes until the next mount; look at the disk, then "
			"run "
			"twinspool fsck on the spool error=%s",
			strerror(err));
	}
	r.sh->bad_to = ticket;
}

static struct round *
begin(void)
{
	struct round *now = calloc(1, sizeof(*now));

	if (now == NULL)
		return NULL;
	pthread_cond_init(&now->over, NULL);
	now->fd = -1;
	return now;
}

/* Lock held. */
static void
leave(struct round *now)
{
	if (--now->users > 0)
		return;
	pthread_cond_destroy(&now->over);
	free(now);
}

/* Lock held, given up meanwhile; the caller is in it. */
static void
wake(struct round *now)
{
	struct round *next = r.next;
	bool others = now->users > 1;

	if (!others && next == NULL)
		return;
	if (next != NULL)
		next->users++;
	pthread_mutex_unlock(&r.lock);
	if (others)
		pthread_cond_broadcast(&now->over);
	if (next != NULL)
		pthread_cond_signal(&next->over);
	pthread_mutex_lock(&r.lock);
	if (next != NULL)
		leave(next);
}

/* Makes everything durable that was owed or asked for before. Lock held, given up meanwhile. */
static void
lead(struct round *now)
{
	uint64_t ticket = r.sh->owed;
	bool alone = !now->whole && ticket == r.sh->paid;
	int err;

	r.running = true;
	pthread_mutex_unlock(&r.lock);
	stats_add(STATS_ROUNDS, 1);
	err = alone ? sync_alone(now->fd, false, DISK_INDEX) : sync_whole();
	pthread_mutex_lock(&r.lock);
	r.running = false;
	now->done = true;
	now->err = err;
	if (err != 0)
		round_failed(ticket, err);
	else if (r.sh->paid < ticket)
		r.sh->paid = ticket;
	wake(now);
}

/* The next round, with fd in it if that is not -1. Lock held. */
static int
ride(int fd)
{
	struct round *now = r.next;
	int err;

	if (now == NULL) {
		now = r.next = begin();
		if (now == NULL) {
			pthread_mutex_unlock(&r.lock);
			err = sync_whole();
			pthread_mutex_lock(&r.lock);
			return err;
		}
	}
	now->whole |= fd < 0 || now->fd >= 0;
	now->fd = fd;
	now->users++;
	while (!now->done) {
		if (r.running) {
			pthread_cond_wait(&now->over, &r.lock);
			continue;
		}
		r.next = NULL;
		lead(now);
	}
	err = now->err;
	leave(now);
	return err;
}

static bool
puts_off(void)
{
	return r.put_off && r.sh->bad_to == 0;
}

/* Syncs fd in the next round. */
static int
join(int fd)
{
	pthread_mutex_lock(&r.lock);
	int err = ride(fd);
	pthread_mutex_unlock(&r.lock);
	return err;
}

enum owner { NOBODY, EVERYBODY, FOLDER };

/* A sync is owed by the mailbox in dir; by whichever commits next, where it is not
 * known whose it is; or by nobody yet: what names it later says so. */
static void
owe(enum owner by, struct inode *dir)
{
	stats_add(STATS_PUT_OFF, 1);
	pthread_mutex_lock(&r.lock);
	uint64_t ticket = atomic_fetch_add(&r.sh->owed, 1) + 1;
	if (by != NOBODY)
		atomic_store(by == FOLDER ? ticket_of(dir) : &r.sh->all, ticket);
	pthread_mutex_unlock(&r.lock);
}

void
round_linked(struct inode *dir, struct inode *target)
{
	if (puts_off() && inode_place(target).kind == PLACE_STAGE)
		owe(FOLDER, dir);
}

/* A message of several names was seen last under one of them, which need not be the one that is
 * about to be committed. Two are the stage's and its own. */
static int
sync_message(struct inode *file, int fd)
{
	struct inode *dir = inode_parent(file);
	struct stat st;

	if (fstat(fd, &st) != 0)
		return errno;
	owe(dir != NULL && st.st_nlink <= 2 ? FOLDER : EVERYBODY, dir);
	return 0;
}

int
round_sync(struct inode *file, int fd, bool datasync)
{
	struct place place = inode_place(file);
	struct inode *dir;

	if (!puts_off())
		return sync_alone(fd, datasync, place_disk(place));
	switch (place.kind) {
	case PLACE_INDEX:
		return join(fd);
	case PLACE_MESSAGE:
		return sync_message(file, fd);
	case PLACE_STAGE:
		owe(NOBODY, NULL);
		return 0;
	case PLACE_CACHE:
		dir = inode_parent(file);
		owe(dir != NULL ? FOLDER : EVERYBODY, dir);
		return 0;
	default:
		return sync_alone(fd, datasync, place_disk(place));
	}
}

static bool
is_lost(uint64_t ticket)
{
	return r.sh->bad_to != 0 && ticket >= r.sh->bad_from && ticket <= r.sh->bad_to;
}

int
round_pay(struct inode *dir)
{
	uint64_t own = *ticket_of(dir), all = r.sh->all;
	int err = 0;

	if (own <= r.sh->paid && all <= r.sh->paid && r.sh->bad_to == 0)
		return 0;
	slot_wait_begin();
	pthread_mutex_lock(&r.lock);
	while (err == 0 && (own > r.sh->paid || all > r.sh->paid) && !is_lost(own) &&
		!is_lost(all))
		err = ride(-1);
	if (is_lost(own) || is_lost(all))
		err = EIO;
	pthread_mutex_unlock(&r.lock);
	slot_wait_end();
	return err;
}

static void
settle(void)
{
	while (r.sh->owed > r.sh->paid && r.sh->bad_to == 0 && ride(-1) == 0)
		;
}

/* What was owed a second ago and still is belongs to nothing that commits: paid now. */
static void *
pay_late(void *arg)
{
	uint64_t before = 0;

	(void)arg;
	pthread_mutex_lock(&r.lock);
	while (!r.stop) {
		struct timespec until = clock_until(1000);
		if (clock_wait(&r.stops, &r.lock, &until) != ETIMEDOUT)
			continue;
		if (before > r.sh->paid)
			settle();
		before = r.sh->owed;
	}
	pthread_mutex_unlock(&r.lock);
	return NULL;
}

int
round_start(struct round_shared *sh, int root_fd, bool put_off)
{
	r.sh = sh;
	r.root_fd = root_fd;
	r.put_off = put_off;
	if (!put_off)
		return 0;
	if (pthread_create(&r.thread, NULL, pay_late, NULL) != 0) {
		log_err("cannot start a thread");
		return ERR_NOMEM;
	}
	r.has_thread = true;
	return 0;
}

void
round_stop(void)
{
	pthread_mutex_lock(&r.lock);
	settle();
	r.stop = true;
	pthread_cond_signal(&r.stops);
	pthread_mutex_unlock(&r.lock);
	if (r.has_thread)
		pthread_join(r.thread, NULL);
	r.has_thread = false;
}
