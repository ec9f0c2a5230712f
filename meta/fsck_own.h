/*
 * fsck_own.h - what the parts of fsck share; nobody else includes this.
 *
 * fsck.c       the folder: cyrus.header, the files that are there, the walk over a spool
 * fsck_index.c cyrus.index: its records, its counts and sums, the annotations
 * fsck_body.c  messages and cache records
 * fsck_conf.c  all mailboxes of a spool against Cyrus's databases
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
	/* What the annotations of the messages take, once the records have been looked at. */
	bool annots_known;
	uint64_t annot_bytes;
};

/* A mailbox that the walk has seen, with what the databases are compared with. */
struct fsck_place {
	char *dir;
	char *id, *name, *quotaroot; /* of cyrus.header; NULL if not there */
	bool have_index, annots_known;
	struct index_header index;
	uint64_t annot_bytes;
};

/* The folder that Cyrus hashes a name into, by its plain or its full rule (F1.2). */
char fsck_hash_plain(const char *part);
char fsck_hash_full(const char *part);

void fsck_tell(struct fsck *f, enum fsck_class class, uint32_t uid, const char *check,
	const char *cure, const char *fmt, ...) __attribute__((format(printf, 6, 7)));
/* The whole file name of the folder. ERR_NOTFOUND, ERR_LIMIT ... */
int fsck_read(struct fsck *f, const char *name, size_t max, struct buf *out);
int fsck_read_fd(int fd, size_t max, struct buf *out);

/* Opens the view; false if records cannot be looked at. */
bool fsck_index_open(struct fsck *f);
/* Every record, every sum; calls fsck_body for each record. */
int fsck_index_check(struct fsck *f);

/* The message and the cache record of a record. cache_fd may be -1. */
int fsck_body_check(struct fsck *f, const struct index_record *r, int cache_fd);

/* Could the databases be read at all? As fsck_conf_check, before a long walk. */
int fsck_conf_probe(struct fsck_conf *conf);
/* All mailboxes of the partition, sorted by dir, against the databases. f has what findings need,
 * and in fd the root. */
int fsck_conf_check(struct fsck *f, const struct fsck_place *places, size_t n);

#endif
