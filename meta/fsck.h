/*
 * fsck.h - every invariant of a mailbox (F9), each with a name: those that its folder alone can
 * show, and, if asked, those that need Cyrus's configuration directory.
 *
 * Nothing is written, and no mailbox is locked: small files are copied once and judged as of then,
 * so on a mailbox in use a finding of class T may be one moment of a commit. Cyrus's databases are
 * read once, under their read locks, after the walk over the spool; what a Cyrus at work changes
 * meanwhile may be found as a difference. The names are a promise
 * to scripts and to the log: "record-crc", "uid-order", "counts", "sync-basic", "guid" ...
 *
 * Threads  any; one call uses no more than its own memory.
 * Errors   a damaged mailbox is findings, not an error. ERR_NOTFOUND, ERR_ACCESS, ERR_IO,
 *          ERR_NOMEM: could not be looked at.
 */
#ifndef META_FSCK_H
#define META_FSCK_H

#include <stdbool.h>
#include <stdint.h>

enum fsck_class {
	FSCK_MUST = 'M', /* must hold */
	FSCK_SHOULD = 'S', /* Cyrus tolerates or repairs it */
	FSCK_TRANSIENT =
		'T' /* may be so between two steps of a commit, or after a crash */
};

struct fsck_finding {
	enum fsck_class class;
	/* Folder below the root; against Cyrus's databases also a name in them that has none. */
	const char *mailbox;
	uint32_t uid; /* 0: the mailbox as a whole */
	const char *check;
	const char *text; /* what was found */
	const char *cure; /* what to do about it */
};

/* The finding is valid during the call. */
typedef void fsck_say(void *arg, const struct fsck_finding *f);

struct imapd;

/* Cyrus's own databases, to compare a whole partition with. */
struct fsck_conf {
	const struct imapd *imapd;
	const char *partition; /* its name in imapd.conf */
	char why[300]; /* what of them could not be read, when fsck_spool failed for it; else "" */
};

struct fsck_options {
	bool bodies; /* read every message: SHA-1, end of its header */
	bool times; /* compare mtime and internaldate */
	struct fsck_conf *conf; /* NULL: the partition by itself */
};

struct fsck_counts {
	uint64_t mailboxes, messages, bytes, findings;
};

/* One mailbox: the folder dir below root_fd ("." for itself). Adds to counts. */
int fsck_mailbox(int root_fd, const char *dir, const struct fsck_options *options,
	fsck_say *say, void *arg, struct fsck_counts *counts);

/* Every mailbox in and below root_fd, and what only the whole tree shows. With options->conf also
 * ERR_BUSY (a transaction of a database is not finished) and ERR_VERSION (not a format that is
 * read). */
int fsck_spool(int root_fd, const struct fsck_options *options, fsck_say *say,
	void *arg, struct fsck_counts *counts);

#endif
