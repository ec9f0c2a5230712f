/*
 * round.h - syncs of the spool: put off until they matter, then made in rounds that all share.
 *
 * Cyrus asks for a sync of each message, of the cache and of the index. Only the last one makes
 * mail durable, if by then the others are: so the first two are owed here, by the mailbox that
 * they belong to, and paid before the next write to its index reaches the backing file
 * (design 5). A power cut before that leaves bytes that no index names; after it, the bytes are
 * there. The sync of an index is not put off, it only joins the next round.
 *
 * A round makes durable what was asked for or owed before it began. Who comes while one runs
 * waits for the next; the first of those leads it. So there is at most one at a time, and the
 * busier the mount the more ride on each.
 *
 * A disk that fails to keep what was written (EIO, ENOSPC on a thin volume) does not say whose
 * bytes are lost, and forgets that it failed: the mailboxes that owed something to such a round
 * refuse every change until the next mount, and from then on each sync is made as it comes.
 *
 * Owns     a struct in the shared memory: debts outlive a server. One thread, which pays what
 *          nobody commits within two seconds.
 * Threads  any. All that sync can take as long as a disk does.
 * Errors   0 or a positive errno.
 */
#ifndef FS_ROUND_H
#define FS_ROUND_H

#include "fs/inode.h"

#include <stdbool.h>
#include <stddef.h>

struct round_shared;
size_t round_shared_size(void);
/* In each new server, before requests, with the memory as the last one left it (or all zero).
 * root_fd: the spool, kept, not owned. put_off: `sync: commit`; else every sync is made as it
 * comes. 0 or ERR_NOMEM. */
int round_start(struct round_shared *sh, int root_fd, bool put_off);
/* After the last request: pays what is owed and ends the thread. */
void round_stop(void);

/* Syncs file, or puts that off: what fsync(2) and fdatasync(2) on it mean to this mount. fd is its
 * descriptor. */
int round_sync(struct inode *file, int fd, bool datasync);
/* A message gets a name in dir, and what it was staged under is target: dir owes its sync. */
void round_linked(struct inode *dir, struct inode *target);
/* Before the index of dir is changed: what dir owes is durable when this returns 0. */
int round_pay(struct inode *dir);

#endif
