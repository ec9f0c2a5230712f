/*
 * gate.c - the state, the attributes that show it, and the remount that proves it.
 *
 *   state      index shown      CREATE of an index   in stage.        superblock
 *   OPEN       as it is         yes                  yes              read-write
 *   REFUSING   no write bits    EACCES               EACCES           read-write
 *   DRAINING   no write bits    EACCES               yes              read-write, trying
 *   SHUT       no write bits    EROFS (kernel)       EROFS (kernel)   read-only
 *   STANDBY    as it is         EROFS (kernel)       EROFS (kernel)   read-only
 *   STALE      no write bits    EACCES               EACCES           read-write, trying
 *
 * The state is stored, then the requests that may have seen the old one are waited for, and then
 * attributes are expired: a lookup's answer could otherwise reach the kernel after the expiry, for
 * a file that the kernel did not know when it was told. Attributes that differ from the spool's
 * are given no validity at all.
 *
 * mount(2) is called in a child. While it runs the kernel may write pages back, and so wait for
 * us; a server killed in such a wait could not die before somebody answers, and the next one is
 * not started before it is dead. The child is remembered in the shared memory, so that the next
 * server waits for it rather than race it.
 */
#include "fs/gate.h"

#include "fs/inval.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/log.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TRY_MIN_MS 2
#define TRY_MAX_MS 100 /* each try drops the unused names from the kernel's cache */
#define STALE_TRY_MS 5000
#define CHILD_WAIT_MS 5000
#define ANSWER_WAIT_MS 2000 /* a lookup that takes longer has other troubles */
#define SHED_GATHER_MS 300 /* what is told is about to go: by then it has gone */
#define SHED_PAUSE_MS 8000
#define FLAGS (MS_REMOUNT | MS_NOSUID | MS_NODEV)

enum state { OPEN, REFUSING, DRAINING, SHUT, STANDBY, STALE };

static const char *const words[] = { "open", "refusing", "draining", "shut", "standby",
	"stale" };

struct gate_shared {
	_Atomic uint32_t state;
	_Atomic bool
		refuse; /* REFUSING rather than OPEN: where a drain that failed goes back to */
	_Atomic bool stale; /* OPEN and REFUSING are STALE from now on */
	_Atomic int32_t child; /* pid of a remount under way, or 0 */
};

static struct {
	struct gate_shared *sh;
	const char *mountpoint;
	pthread_mutex_t change; /* one transition at a time */
	_Atomic uint32_t turn; /* low bit: which of the two counts new requests */
	_Atomic uint32_t busy[2];
} gate = { .change = PTHREAD_MUTEX_INITIALIZER };

static enum state
state_now(void)
{
	return gate.sh == NULL ? OPEN : (enum state)atomic_load(&gate.sh->state);
}

size_t
gate_shared_size(void)
{
	return sizeof(struct gate_shared);
}

const char *
gate_word(void)
{
	return words[state_now()];
}

/* ---- what shows ---- */

void
gate_shape(const struct inode *ino, struct stat *st)
{
	if (gate_shows(ino))
		st->st_mode &= ~(mode_t)(S_IWUSR | S_IWGRP | S_IWOTH);
}

bool
gate_refuses(void)
{
	return gate.sh != NULL && gate.sh->refuse;
}

bool
gate_shows(const struct inode *ino)
{
	enum state s = state_now();

	return s != OPEN && s != STANDBY && inode_place(ino).kind == PLACE_INDEX;
}

unsigned
gate_begin(void)
{
	for (;;) {
		unsigned turn = atomic_load(&gate.turn) & 1;

		atomic_fetch_add(&gate.busy[turn], 1);
		if ((atomic_load(&gate.turn) & 1) == turn)
			return turn;
		atomic_fetch_sub(&gate.busy[turn], 1);
	}
}

void
gate_end(unsigned turn)
{
	atomic_fetch_sub(&gate.busy[turn], 1);
}

int
gate_create(const struct inode *parent, const char *name)
{
	enum state s = state_now();
	struct place place = inode_place(parent);

	if (s == OPEN || s == STANDBY)
		return 0;
	if ((s == REFUSING || s == STALE) && place.kind == PLACE_STAGE)
		return EACCES;
	/* a new mailbox would be a new transaction */
	return place_step(place, name, S_IFREG).kind == PLACE_INDEX ? EACCES : 0;
}

static void
expire(uint64_t nodeid, void *arg)
{
	(void)arg;
	inval_attr(nodeid);
}

static void
nap(unsigned ms)
{
	struct timespec ts = { ms / 1000, (long)(ms % 1000) * 1000000 };

	nanosleep(&ts, NULL);
}

static void
enter(enum state s)
{
	uint64_t end = clock_ms() + ANSWER_WAIT_MS;
	enum state was = state_now();

	if (s == was)
		return;
	atomic_store(&gate.sh->state, s);
	log_info("gate from=%s to=%s", words[was], words[s]);
	unsigned old = atomic_fetch_add(&gate.turn, 1) & 1;
	while (atomic_load(&gate.busy[old]) != 0 && clock_ms() < end)
		nap(1);
	inode_each_place(PLACE_INDEX, expire, NULL);
}

/* ---- the superblock ---- */

/* 0 or an errno. */
static int
remount(bool read_only)
{
	pid_t pid = fork();
	int status;

	if (pid < 0)
		return errno;
	if (pid == 0) {
		/* It may outlive us: the control socket and the locks are not its own. */
		(void)close_range(3, ~0u, 0);
		atomic_store(&gate.sh->child, (int32_t)getpid());
		int rc = mount(NULL, gate.mountpoint, NULL,
			FLAGS | (read_only ? MS_RDONLY : 0), NULL);
		int err = rc != 0 ? errno : 0;
		atomic_store(&gate.sh->child, 0);
		_exit(err);
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return errno;
	atomic_store(&gate.sh->child, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
}

/* True once the remount of a dead server has ended; a zombie nobody waits for has. */
static bool
child_gone(pid_t pid)
{
	char path[64], line[512];
	bool gone = true;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	if (f == NULL)
		return true;
	if (fgets(line, sizeof(line), f) != NULL) {
		const char *p = strrchr(line, ')');
		gone = p != NULL && p[1] == ' ' && (p[2] == 'Z' || p[2] == 'X');
	}
	fclose(f);
	return gone;
}

static void
await_old_child(void)
{
	uint64_t end = clock_ms() + CHILD_WAIT_MS;
	pid_t pid;

	while ((pid = atomic_load(&gate.sh->child)) > 0 && !child_gone(pid) &&
		clock_ms() < end)
		nap(TRY_MIN_MS);
	atomic_store(&gate.sh->child, 0);
}

/* ---- what the kernel need not remember ---- */

static struct {
	pthread_mutex_t lock;
	pthread_cond_t told;
	bool wanted, running;
} shed = { .lock = PTHREAD_MUTEX_INITIALIZER, .told = PTHREAD_COND_INITIALIZER };

/* A read-only superblock that is made read-only once more stays what it is, and the kernel drops
 * its unused names on the way (decision 0018 says why not one by one). */
static void *
shed_main(void *arg)
{
	(void)arg;
	gate_await_session();
	for (;;) {
		pthread_mutex_lock(&shed.lock);
		while (!shed.wanted)
			pthread_cond_wait(&shed.told, &shed.lock);
		shed.wanted = false;
		pthread_mutex_unlock(&shed.lock);
		nap(SHED_GATHER_MS);
		pthread_mutex_lock(&gate.change);
		await_old_child();
		int err = state_now() == STANDBY ? remount(true) : 0;
		pthread_mutex_unlock(&gate.change);
		if (err != 0)
			log_warn("the kernel keeps files that are gone error=%s",
				strerror(err));
		nap(SHED_PAUSE_MS);
	}
	return NULL;
}

void
gate_shed(void)
{
	pthread_t thread;

	if (state_now() != STANDBY)
		return;
	pthread_mutex_lock(&shed.lock);
	if (!shed.running && pthread_create(&thread, NULL, shed_main, NULL) == 0) {
		pthread_detach(thread);
		shed.running = true;
	}
	shed.wanted = true;
	pthread_cond_signal(&shed.told);
	pthread_mutex_unlock(&shed.lock);
}

/* ---- transitions ---- */

void
gate_refuse(void)
{
	pthread_mutex_lock(&gate.change);
	gate.sh->refuse = true;
	if (state_now() == OPEN)
		enter(REFUSING);
	pthread_mutex_unlock(&gate.change);
}

int
gate_shut(uint64_t ms, bool (*on)(void *arg), void *arg, struct buf *why)
{
	uint64_t end = clock_ms() + ms;
	unsigned wait = TRY_MIN_MS;
	int err = 0, rc = 0;

	pthread_mutex_lock(&gate.change);
	if (state_now() == SHUT || state_now() == STANDBY)
		goto out;
	enter(DRAINING);
	while ((err = remount(true)) == EBUSY) {
		if (clock_ms() >= end || (on != NULL && !on(arg)))
			break;
		nap(wait);
		wait = wait * 2 > TRY_MAX_MS ? TRY_MAX_MS : wait * 2;
	}
	if (err == 0) {
		enter(SHUT);
		goto out;
	}
	rc = err == EBUSY ? ERR_BUSY : err_from_errno(err);
	if (why != NULL)
		buf_printf(why, "%s",
			err == EBUSY ? "files are still open for writing"
				     : strerror(err));
	log_warn("the gate does not shut error=%s", strerror(err));
out:
	pthread_mutex_unlock(&gate.change);
	return rc;
}

/* change is held. */
static int
make_open(void)
{
	int err = 0;

	await_old_child();
	if (gate.sh->stale) {
		enter(STALE);
		return 0;
	}
	if (state_now() != OPEN && state_now() != REFUSING)
		err = remount(false);
	if (err != 0) {
		log_err("cannot make the mount writable path=%s error=%s",
			gate.mountpoint, strerror(err));
		return err_from_errno(err);
	}
	enter(gate.sh->refuse ? REFUSING : OPEN);
	return 0;
}

/* A descriptor that is open for writing may stay so for as long as a client keeps its mailbox
 * selected, and each try drops names from the kernel's cache: so seldom. */
static void *
stale_main(void *arg)
{
	int err = EBUSY;

	(void)arg;
	gate_await_session();
	inode_each_place(PLACE_INDEX, expire, NULL);
	while (err == EBUSY) {
		pthread_mutex_lock(&gate.change);
		err = state_now() == STALE ? remount(true) : 0;
		pthread_mutex_unlock(&gate.change);
		if (err == EBUSY)
			nap(STALE_TRY_MS);
	}
	return NULL;
}

void
gate_stale(void)
{
	pthread_t thread;

	pthread_mutex_lock(&gate.change);
	bool before = atomic_exchange(&gate.sh->stale, true);
	if (state_now() == OPEN || state_now() == REFUSING)
		enter(STALE);
	pthread_mutex_unlock(&gate.change);
	if (!before && pthread_create(&thread, NULL, stale_main, NULL) == 0)
		pthread_detach(thread);
}

void
gate_admit(void)
{
	pthread_mutex_lock(&gate.change);
	gate.sh->refuse = false;
	if (state_now() == REFUSING)
		(void)make_open();
	pthread_mutex_unlock(&gate.change);
}

int
gate_open(void)
{
	int rc = 0;

	pthread_mutex_lock(&gate.change);
	if (state_now() != STANDBY)
		rc = make_open();
	pthread_mutex_unlock(&gate.change);
	return rc;
}

/*
 * A thread of this process that waits for an answer from this mount cannot be killed, and a
 * server that is not quite dead is not replaced: so another process asks. It lets go of
 * everything first, above all of the device, which would keep a dead mount alive.
 */
void
gate_await_session(void)
{
	struct statfs st;
	pid_t pid = fork();

	if (pid == 0) {
		(void)close_range(0, ~0U, 0);
		while (statfs(gate.mountpoint, &st) < 0 && errno == EINTR)
			continue;
		_exit(0);
	}
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		continue;
}

static void *
open_again(void *arg)
{
	(void)arg;
	gate_await_session();
	if (state_now() == STALE)
		return stale_main(NULL);
	if (state_now() == REFUSING) {
		/* what the dead server had answered before it came to expire it */
		inode_each_place(PLACE_INDEX, expire, NULL);
		return NULL;
	}
	log_warn("a drain ended with its server: the gate opens again");
	(void)gate_open();
	return NULL;
}

int
gate_start(
	struct gate_shared *sh, const char *mountpoint, bool read_only, bool takeover)
{
	pthread_t thread;

	gate.sh = sh;
	gate.mountpoint = mountpoint;
	if (!takeover) {
		atomic_store(&sh->state, read_only ? STANDBY : OPEN);
		sh->refuse = false;
		return 0;
	}
	gate_shed(); /* the dead one may have been told */
	if (state_now() == OPEN || state_now() == STANDBY)
		return 0;
	/* Not here: the remount asks us, and nobody answers yet. */
	if (pthread_create(&thread, NULL, open_again, NULL) != 0)
		return ERR_NOMEM;
	pthread_detach(thread);
	return 0;
}
