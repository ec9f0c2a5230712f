/*
 * warm.h - the inodes of a folder that is being listed are read before they are asked for.
 *
 * In a cold listing client and server take turns: one takes in an answer, the other reads inodes
 * for the next. A thread of its own runs some hundred names ahead, so that neither waits for the
 * disk alone. It changes nothing and owes nothing: without it a listing is slower.
 *
 * Threads  any. One folder at a time; the thread and a descriptor are there while it is listed.
 */
#ifndef FS_WARM_H
#define FS_WARM_H

#include <stdint.h>
#include <sys/types.h>

/* An answer with so many entries of folder nodeid, open as dirfd, took so many microseconds and
 * ends at cookie at. What follows is read ahead, if this was slow or it is being done already. */
void warm_ahead(uint64_t nodeid, int dirfd, off_t at, unsigned entries, uint64_t us);

#endif
