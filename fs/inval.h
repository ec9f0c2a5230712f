/*
 * inval.h - tells the kernel what has changed behind its back.
 *
 * Threads  any but a request handler's: the kernel may wait in these calls for a request that it
 *          has under way on the same inode. Hold no lock that a handler takes.
 * Errors   none: what the kernel does not know needs no telling.
 */
#ifndef FS_INVAL_H
#define FS_INVAL_H

#include <stdint.h>

struct fuse_session;

void inval_start(struct fuse_session *se);
/* Attributes only. */
void inval_attr(uint64_t nodeid);

#endif
