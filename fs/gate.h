/*
 * gate.h - may mailboxes be changed at this moment?
 *
 *   open       yes
 *   refusing   a transaction that has begun ends as it likes, no other begins
 *   draining   the same, on the way to
 *   shut       the whole mount is read-only, and the kernel has proved that nobody holds a file
 *              open for writing
 *   standby    read-only because the other side is active
 *   stale      no transaction begins, and none ever will: another side was promoted. Read-only
 *              too, as soon as nobody holds a file open for writing
 *
 * OPEN requests are not seen, so a gate that is not open shows itself in attributes: each
 * cyrus.index, and only it, is reported without write bits. Opening it for writing then fails
 * with EACCES, which Cyrus reports cleanly; descriptors that are open go on. Root passes, until the
 * mount is read-only.
 *
 * Owns     a word in the shared memory: the state outlives the server.
 * Threads  gate_shape, gate_create, gate_word: any. gate_refuse, gate_shut, gate_open: not a
 *          request's, since the kernel asks us while it remounts. They exclude one another.
 * Errors   err.h; gate_create a positive errno.
 */
#ifndef FS_GATE_H
#define FS_GATE_H

#include "fs/inode.h"
#include "meta/base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#define GATE_NONE 2u /* no turn */

struct gate_shared;
size_t gate_shared_size(void);
/* In each new server, before requests. read_only: how the mount was made, for the first one. What
 * a dead server was draining or had drained is opened again: whoever asked for it has gone. */
int gate_start(
	struct gate_shared *sh, const char *mountpoint, bool read_only, bool takeover);

/* Returns once requests are answered: before that the kernel would not hear that attributes are
 * expired, and would go on showing a mailbox as shut. Not for a request's thread. */
void gate_await_session(void);

/* Attributes of ino as they may be shown now. */
void gate_shape(const struct inode *ino, struct stat *st);
/* Whether they are other than the spool's, and so must not be believed for long. */
bool gate_shows(const struct inode *ino);
/* Around a request that may answer attributes: a change of state waits for those that looked at
 * the old one, and expires what they answered. */
unsigned gate_begin(void);
void gate_end(unsigned turn);
/* Whether a file of that name may be made there now. */
int gate_create(const struct inode *parent, const char *name);

/* "open", "refusing", "draining", "shut", "standby", "stale". */
const char *gate_word(void);

/* No transaction begins: from open at once, else when whoever drains is through. */
void gate_refuse(void);
bool gate_refuses(void);
/* Drains until the mount is read-only. ERR_BUSY when the time is over or on() says false, with
 * the reason in why (may be NULL); the gate is draining then, and the caller opens it again. */
int gate_shut(uint64_t ms, bool (*on)(void *arg), void *arg, struct buf *why);
/* They may begin again. Whoever drains is not disturbed by that either. */
void gate_admit(void);
/* From open, at once, and for good: what would open the gate after this leaves it stale. Goes on
 * trying to make the mount read-only. Not for a thread that a request may wait for. */
void gate_stale(void);
/* Ends a drain: to open, or to refusing if that was asked for; a standby stays one. ERR_IO and the
 * like if the mount cannot be made writable. */
int gate_open(void);
/* Files that the kernel knows lose their names behind its back, as happens on a standby: within
 * seconds it is made to forget what nobody has in use, and so lets go of them. Returns at once. */
void gate_shed(void);

#endif
