/*
 * inode_claim.c - files that replay changes in place: unknown to the kernel, and kept so.
 *
 * A claim is a handle in a short list. Whoever wants to enter a file of that handle into the table
 * waits until it is given back. The list is in the shared memory: a server that dies in the middle
 * of a change leaves half of it on the disk, and its claim keeps the readers of the next server
 * out until replay has done again all that it does again; an earlier row of the same mailbox may
 * come first, and leaves the half of the later one where it is. So what is claimed meanwhile is
 * not given back before that either.
 *
 * Where the memory went too, with the supervisor or the machine, nothing says what is half done:
 * until then every index and every cache is kept out of the table.
 */
#include "fs/inode_own.h"

#include "fs/slot.h"
#include "meta/base/clock.h"
#include "meta/base/log.h"

#include <errno.h>
#include <string.h>
#include <time.h>

enum { LEFT_WAIT_S = 10 }; /* readers wait so long for what a dead server left */

/* Guarded, as the list itself, by the table's lock. */
static struct inode_claims *shared;
static struct inode_claim *claims; /* those in it */
static unsigned nclaims;
static bool settled; /* by this life */
static pthread_cond_t unclaimed = PTHREAD_COND_INITIALIZER;

void
inode_claims_start(struct inode_claims *in)
{
	shared = in;
	claims = in->list;
	for (unsigned i = 0; i < INODE_CLAIMS_MAX; i++) {
		claims[i].left = claims[i].handle.len != 0;
		nclaims += claims[i].left;
	}
}

static struct inode_claim *
find_claim(const struct slot_handle *h)
{
	for (unsigned i = 0; nclaims > 0 && i < INODE_CLAIMS_MAX; i++)
		if (claims[i].handle.len == h->len &&
			claims[i].handle.type == h->type &&
			memcmp(claims[i].handle.bytes, h->bytes, h->len) == 0)
			return &claims[i];
	return NULL;
}

static struct inode_claim *
new_claim(const struct slot_handle *h)
{
	for (unsigned i = 0; i < INODE_CLAIMS_MAX; i++)
		if (claims[i].handle.len == 0) {
			claims[i].handle = *h;
			claims[i].left = !settled;
			nclaims++;
			return &claims[i];
		}
	return NULL;
}

/* Lock held. */
static void
free_claim(struct inode_claim *c)
{
	c->handle.len = 0;
	c->left = false;
	nclaims--;
	pthread_cond_broadcast(&unclaimed);
}

/* The entry is held: the kernel may forget it at any moment. */
static void
pin_and_drop(struct inode *ino)
{
	if (inode_pin(ino) != 0)
		log_warn("a file that is being read cannot be pinned; its readers may "
			 "get ESTALE");
	inode_drop(ino);
}

bool
inode_claim(int fd)
{
	struct slot_handle h;
	struct inode_claim *c = NULL;
	struct inode *ino;

	if (inode_handle_at(fd, "", &h) != 0 || h.len == 0)
		return false;
	pthread_mutex_lock(&inode_tab.lock);
	ino = inode_find(&h);
	if (ino != NULL) {
		inode_own(ino)->holds++;
	} else if ((c = find_claim(&h)) == NULL) {
		c = new_claim(&h);
	} else if (!c->left) {
		c = NULL;
	}
	pthread_mutex_unlock(&inode_tab.lock);
	if (ino != NULL)
		pin_and_drop(ino);
	return c != NULL;
}

bool
inode_losing(int fd)
{
	struct slot_handle h;
	struct inode *ino;

	if (inode_handle_at(fd, "", &h) != 0 || h.len == 0)
		return false;
	pthread_mutex_lock(&inode_tab.lock);
	ino = inode_find(&h);
	if (ino != NULL)
		inode_own(ino)->holds++;
	pthread_mutex_unlock(&inode_tab.lock);
	if (ino != NULL)
		pin_and_drop(ino);
	return ino != NULL;
}

void
inode_unclaim(int fd)
{
	struct slot_handle h;
	struct inode_claim *c;

	if (inode_handle_at(fd, "", &h) != 0)
		return;
	pthread_mutex_lock(&inode_tab.lock);
	c = find_claim(&h);
	if (c != NULL && !c->left)
		free_claim(c);
	pthread_mutex_unlock(&inode_tab.lock);
}

void
inode_claims_settled(void)
{
	pthread_mutex_lock(&inode_tab.lock);
	settled = true;
	shared->whole = 1;
	for (unsigned i = 0; i < INODE_CLAIMS_MAX; i++)
		if (claims[i].left)
			free_claim(&claims[i]);
	pthread_cond_broadcast(&unclaimed);
	pthread_mutex_unlock(&inode_tab.lock);
}

/* Is a reader kept out of it? left_out: by what was left, which may never be done again. */
static bool
is_kept(const struct slot_handle *h, enum place_kind kind, bool *left_out)
{
	const struct inode_claim *c = find_claim(h);

	*left_out = c == NULL || c->left;
	return c != NULL ||
	       (shared->whole == 0 && (kind == PLACE_INDEX || kind == PLACE_CACHE));
}

/* Lock held. */
static void
let_in(const struct slot_handle *h)
{
	struct inode_claim *c = find_claim(h);

	log_warn("replay does not come to what a dead server left half done: readers "
		 "go first");
	if (c != NULL)
		free_claim(c);
	shared->whole = 1;
	pthread_cond_broadcast(&unclaimed);
}

void
inode_claim_wait(const struct slot_handle *h, enum place_kind kind)
{
	struct timespec until;
	bool left;

	if (!is_kept(h, kind, &left))
		return;
	pthread_mutex_unlock(&inode_tab.lock);
	slot_wait_begin();
	pthread_mutex_lock(&inode_tab.lock);
	until = clock_until(LEFT_WAIT_S * 1000);
	while (is_kept(h, kind, &left)) {
		if (!left)
			pthread_cond_wait(&unclaimed, &inode_tab.lock);
		else if (clock_wait(&unclaimed, &inode_tab.lock, &until) == ETIMEDOUT &&
			 is_kept(h, kind, &left) && left)
			let_in(h);
	}
	slot_wait_end();
}
