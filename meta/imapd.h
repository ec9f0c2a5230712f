/*
 * imapd.h - what Cyrus's own configuration says about a mail partition: imapd.conf, read for the
 * few options that tell where the databases lie and which folder a mailbox has.
 *
 * Threads  any; one call uses no more than its own memory.
 */
#ifndef META_IMAPD_H
#define META_IMAPD_H

#include <stdbool.h>
#include <stddef.h>

struct imapd_partition {
	char *name, *path;
};

struct imapd {
	char *configdirectory;
	char *mailboxes, *annotations; /* paths of the databases */
	bool hashimapspool, fulldirhash;
	struct imapd_partition *partitions;
	size_t n_partitions;
};

/* ERR_CONF, and in why one line: the file cannot be read, lacks what is needed, or names a kind
 * of database that fsck does not read. */
int imapd_load(const char *path, struct imapd *out, char *why, size_t n);
void imapd_fini(struct imapd *c);

#endif
