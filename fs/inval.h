/*
 * inval.h - tells the kernel what has changed behind its back.
 *
 * Threads  any but a request handler's: the kernel may wait in these calls for a request that it
 *          has under way on the same inode (inval_entry behind a LOOKUP or UNLINK in that folder,
 *          inval_inode behind a READ). Hold no lock that a handler takes.
 * Errors   none: what the kernel does not know needs no telling.
 */
#ifndef FS_INVAL_H
#define FS_INVAL_H

#include <stdint.h>

struct fuse_session;

void inval_start(struct fuse_session *se);
/* Cached bytes and attributes. */
void inval_inode(uint64_t nodeid);
/* Attributes only. */
void inval_attr(uint64_t nodeid);
/* What a name means, or that it means nothing. */
void inval_entry(uint64_t parent, const char *name);

#endif
