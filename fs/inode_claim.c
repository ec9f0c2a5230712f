/*
 * inode_claim.c - files that replay changes in place: unknown to the kernel, and kept so.
 *
 * A claim is a handle in a short list. Whoever wants to enter a file of that handle into the table
 * waits until it is given back.
 */
#include "fs/inode_own.h"

#include "fs/slot.h"
#include "meta/base/log.h"

#include <string.h>

enum { CLAIMS_MAX = 64 };

static struct slot_handle
	claims[CLAIMS_MAX]; /* len 0: free. Guarded by the table's lock */
static unsigned nclaims;
static pthread_cond_t unclaimed = PTHREAD_COND_INITIALIZER;

static struct slot_handle *
find_claim(const struct slot_handle *h)
{
	for (unsigned i = 0; nclaims > 0 && i < CLAIMS_MAX; i++)
		if (claims[i].len == h->len && claims[i].type == h->type &&
			memcmp(claims[i].bytes, h->bytes, h->len) == 0)
			return &claims[i];
	return NULL;
}

bool
inode_claim(int fd)
{
	struct slot_handle h, *at = NULL;
	struct inode *ino;

	if (inode_handle_at(fd, "", &h) != 0 || h.len == 0)
		return false;
	pthread_mutex_lock(&inode_tab.lock);
	ino = inode_find(&h);
	if (ino == NULL && find_claim(&h) == NULL) {
		for (unsigned i = 0; at == NULL && i < CLAIMS_MAX; i++)
			if (claims[i].len == 0)
				at = &claims[i];
		if (at != NULL) {
			*at = h;
			nclaims++;
		}
	}
	pthread_mutex_unlock(&inode_tab.lock);
	if (at == NULL && ino != NULL && inode_pin(ino) != 0)
		log_warn("a file that is being read cannot be pinned; its readers may "
			 "get ESTALE");
	return at != NULL;
}

void
inode_losing(int fd)
{
	struct slot_handle h;
	struct inode *ino;

	if (inode_handle_at(fd, "", &h) != 0)
		return;
	ino = inode_by_handle(&h);
	if (ino != NULL && inode_pin(ino) != 0)
		log_warn("a file that is being read cannot be pinned; its readers may "
			 "get ESTALE");
}

void
inode_unclaim(int fd)
{
	struct slot_handle h, *at;

	if (inode_handle_at(fd, "", &h) != 0)
		return;
	pthread_mutex_lock(&inode_tab.lock);
	at = find_claim(&h);
	if (at != NULL) {
		at->len = 0;
		nclaims--;
		pthread_cond_broadcast(&unclaimed);
	}
	pthread_mutex_unlock(&inode_tab.lock);
}

void
inode_claim_wait(const struct slot_handle *h)
{
	while (nclaims > 0 && find_claim(h) != NULL)
		pthread_cond_wait(&unclaimed, &inode_tab.lock);
}
