/*
 * pending.h - mailbox transactions between their first write and their place in the journal.
 *
 * One struct pending per mailbox folder that was touched and is not yet journaled. While it
 * exists the folder's inode carries marks in the shared memory, set before the write that they
 * announce, so that the next server derives what this one did not finish (design 4).
 *
 * Threads  any; a transaction of a mailbox is one at a time, since Cyrus holds the index lock.
 * Locks    none that a caller sees.
 */
#ifndef FS_PENDING_H
#define FS_PENDING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct inode;
struct sync;

#define PENDING_MARK_TOUCHED 1u /* something was written and not yet committed */
#define PENDING_MARK_COMMITTED \
	2u /* an index header was written and not yet journaled */

/* How long a transaction may stay without its header (design 4), and a header without its sync,
 * before we look after it ourselves. */
enum { PENDING_ABORT_MS = 200, PENDING_SYNC_MS = 1000 };

/* Starts the watching thread; mailboxes that an earlier server left marked are derived. Locks are
 * looked for on what is mounted at mountpoint. */
int pending_start(struct sync *sync, const char *mountpoint);
void pending_stop(void);

/* cyrus.index of dir is about to be written at [off, off + len); fd is its descriptor. Notes what
 * the touched records were. */
void pending_index_write(struct inode *dir, int fd, off_t off, size_t len);
/* Something else that belongs to the transaction was changed: annotations, else names. */
void pending_touch(struct inode *dir, bool annots);
/* The list of touched records is not to be trusted any more. */
void pending_unsure(struct inode *dir);
/* cyrus.index.NEW is about to replace cyrus.index, whose descriptor is fd (or -1). */
void pending_replace(struct inode *dir, int fd);

/* The index of dir was synced, or replaced: if its header was written, the commit is handed to
 * replication before this returns. What it was, as sync.h's kinds; all of them if that is not
 * known, because somebody else has handed it on or an earlier server has. An errno if the folder
 * cannot be found for the moment: it is handed on later. */
int pending_commit(struct inode *dir, unsigned *kinds_out);
/* A file of dir was synced: a commit that was too early when it was handed on goes again. */
void pending_retry(struct inode *dir);
/* Somebody is at work in dir: files there that do not add up yet get more time. */
void pending_stir(struct inode *dir);
/* Whether anything of dir is on its way. */
bool pending_is(struct inode *dir);
/* Derives the mailbox in dir, whatever is pending; once nobody has it locked. */
void pending_derive(struct inode *dir);

/* Everything that is not in the middle of a transaction is handed on now. final: nobody can write
 * any more, so nothing is waited for. */
void pending_flush(bool final);

#endif
