/*
 * cred.h - one thread acts as the caller of a request while it creates something or takes space.
 *
 * Only the filesystem ids change. What the kernel has checked already is not checked again: the
 * capabilities to override stay raised, since supplementary groups are not ours to know.
 *
 * Threads  each for itself; cred_thread first, so that the umask is the thread's own too.
 */
#ifndef FS_CRED_H
#define FS_CRED_H

#include <sys/types.h>

/* Once in each thread that calls the others: it gives up what would let every caller have the space
 * that is kept for root. */
void cred_thread(void);
void cred_enter(uid_t uid, gid_t gid, mode_t mask);
void cred_leave(void);

#endif
