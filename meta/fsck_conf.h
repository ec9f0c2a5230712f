/*
 * fsck_conf.h - Cyrus's databases as sorted tables, for the checks of fsck_conf.c only.
 *
 * Names of mailboxes are in the internal form here, as in cyrus.header: parts joined by a dot, a
 * dot of a part written ^, a domain before "!".
 */
#ifndef META_FSCK_CONF_H
#define META_FSCK_CONF_H

#include "meta/fsck.h"

#include <stddef.h>

/* A record of mailboxes.db. "" for what it does not say. */
struct conf_entry {
	char *name, *id, *type, *partition, *uidvalidity;
};

enum { CONF_STORAGE, CONF_MESSAGES, CONF_ANNOTS, CONF_FOLDERS, CONF_RESOURCES };

/* A quota file, and what its mailboxes add up to. */
struct conf_root {
	char *name;
	bool broken; /* the file does not parse */
	bool has[CONF_RESOURCES];
	uint64_t used[CONF_RESOURCES];
	bool unknown; /* not all of its mailboxes could be counted */
	uint64_t sum[CONF_RESOURCES];
};

/* The bytes of a mailbox's own annotations. */
struct conf_annot {
	char *id;
	uint64_t bytes;
};

struct conf_tables {
	struct conf_entry *names; /* N records, by name */
	struct conf_entry *ids; /* I records, by id */
	struct conf_root *roots; /* by name */
	struct conf_annot *annots; /* by id */
	size_t n_names, n_ids, n_roots, n_annots;
};

/* Reads all of them. On an error conf->why says which and why: ERR_NOTFOUND, ERR_BUSY,
 * ERR_VERSION ...; ERR_MANGLED and ERR_CHECKSUM are damage. */
int conf_tables_read(struct fsck_conf *conf, struct conf_tables *out);
void conf_tables_fini(struct conf_tables *t);

/* NULL if there is none. */
const struct conf_entry *conf_find_id(const struct conf_tables *t, const char *id);
struct conf_root *conf_find_root(const struct conf_tables *t, const char *name);
uint64_t conf_annot_bytes(const struct conf_tables *t, const char *id);

#endif
