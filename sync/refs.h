/*
 * refs.h - where a body is already known: inode number -> mailbox and UID of another link.
 *
 * A COPY, or a delivery to many users, is a hard link; it travels as a reference to the message
 * that is known. An entry is only a hint. Nothing takes it away with its message, so
 * whoever uses it looks whether that link is there and is still this inode; the peer checks the
 * GUID, and asks if it does not fit.
 *
 * Threads  any. Bounded: the oldest entry of a bucket goes.
 */
#ifndef SYNC_REFS_H
#define SYNC_REFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct refs;

int refs_open(struct refs **out);
void refs_close(struct refs *r);
void refs_put(struct refs *r, uint64_t ino, const char *dir, uint32_t uid);
/* What is in from, or below it, is in to now. */
void refs_move(struct refs *r, const char *from, const char *to);
bool
refs_get(struct refs *r, uint64_t ino, char *dir_out, size_t size, uint32_t *uid_out);

#endif
