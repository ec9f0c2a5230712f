/*
 * fsck_own.h - what the parts of fsck share; nobody else includes this.
 *
 * fsck.c       the folder: cyrus.header, the files that are there, the walk over a spool
 * fsck_index.c cyrus.index: its records, its counts and sums, the annotations
 * fsck_body.c  messages and cache records
 */
#ifndef META_FSCK_OWN_H
#define META_FSCK_OWN_H

#include "meta/base/buf.h"
#include "meta/fsck.h"
#include "meta/header.h"
#include "meta/index.h"

#include <stddef.h>

#define FSCK_RECONSTRUCT "run reconstruct on this mailbox"
#define FSCK_EXPIRE \
	"none needed: Cyrus writes it anew when cyr_expire -X removes a message here"
#define FSCK_REREAD "run reconstruct -G on this mailbox, or take the peer's copy"
#define FSCK_RESTORE "take the file from the peer or from a backup"
#define FSCK_REMOVE "remove the file once Cyrus does not use the mailbox"

struct fsck {
	const struct fsck_options *options;
	fsck_say *say;
	void *arg;
	struct fsck_counts *counts;
	const char *dir;
	int fd; /* the mailbox's folder */
	bool have_index, have_names;
	struct index_view v; /* over index */
	struct buf index, file; /* cyrus.index; cyrus.header */
	struct header names;
	char owner[256]; /* "": not known */
};

void fsck_tell(struct fsck *f, enum fsck_class class, uint32_t uid, const char *check,
	const char *cure, const char *fmt, ...) __attribute__((format(printf, 6, 7)));
/* The whole file name of the folder. ERR_NOTFOUND, ERR_LIMIT ... */
int fsck_read(struct fsck *f, const char *name, size_t max, struct buf *out);

/* Opens the view; false if records cannot be looked at. */
bool fsck_index_open(struct fsck *f);
/* Every record, every sum; calls fsck_body for each record. */
int fsck_index_check(struct fsck *f);

/* The message and the cache record of a record. cache_fd may be -1. */
int fsck_body_check(struct fsck *f, const struct index_record *r, int cache_fd);

#endif
