/*
 * shown.h - what the files of the hidden folder .twinspool/ say: status, peers, metrics,
 * quarantine.
 *
 * In the server, after vdir_start and before requests are served. Threads: the fills run in
 * request threads, so what they ask must not wait for a request.
 */
#ifndef FS_SHOWN_H
#define FS_SHOWN_H

#include "meta/base/buf.h"

/* Adds the files. more (may be NULL) appends to the metrics. 0 or ERR_LIMIT. */
int shown_start(void (*more)(void *arg, struct buf *out), void *arg);

#endif
