/*
 * place.h - what a name in the spool means: message, index, header, staging, or none of them.
 *
 * Pure: no I/O, no memory. A place is found by stepping from the root, one name at a time, so
 * it never depends on how a path was spelled. Threads: any.
 */
#ifndef META_PLACE_H
#define META_PLACE_H

#include "meta/base/disk.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum place_kind {
	PLACE_NONE, /* not known */
	PLACE_ROOT, /* the root of the spool */
	PLACE_DIR, /* a mailbox, or a folder on the way to one */
	PLACE_STAGE, /* stage./ and all below it */
	PLACE_SYNC, /* sync./ and all below it */
	PLACE_OWN, /* .twinspool/ and all below it */
	PLACE_INDEX, /* cyrus.index */
	PLACE_HEADER, /* cyrus.header */
	PLACE_CACHE, /* cyrus.cache */
	PLACE_ANNOT, /* cyrus.annotations */
	PLACE_MESSAGE, /* <uid>. */
	PLACE_NEW, /* *.NEW, a rewrite in flight, and all below it */
	PLACE_FILE /* anything else */
};

struct place {
	uint8_t kind; /* enum place_kind */
	uint8_t which; /* PLACE_NEW: the kind it is going to replace, if it is one of the four */
	uint32_t uid; /* PLACE_MESSAGE: never 0 */
};

/* clang-format off */
#define PLACE_AT_ROOT ((struct place){ PLACE_ROOT, 0, 0 })
/* clang-format on */

/* The place of name in the folder whose place is parent; mode gives the file's type. */
struct place place_step(struct place parent, const char *name, mode_t mode);

/* What a sync of it makes durable. */
enum disk_what place_disk(struct place p);

#endif
