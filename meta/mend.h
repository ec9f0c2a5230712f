/*
 * mend.h - an index that a power cut left torn, made readable, so that the batches since the last
 * sync can be done again on it. What it holds then is not believed: the sum behind the last of them
 * says whether it is right.
 */
#ifndef META_MEND_H
#define META_MEND_H

#include "meta/spool.h"

/* 0: it was torn and is written anew, synced. ERR_EXISTS: nothing is torn. ERR_MANGLED and the
 * like: its header cannot be read; nothing was done. */
int mend_index(struct spool *sp, const char *dir);

#endif
