/*
 * header.h - cyrus.header text <-> names, ACL, user flags (F4), old and new form.
 *
 * Replication carries the file's bytes unchanged; this decodes them for checks, for the sum and
 * for keyword names.
 */
#ifndef META_HEADER_H
#define META_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HEADER_MAX_FLAGS 128
#define HEADER_MAX_FILE (1u << 20)

struct header_acl {
	char *id;
	char *rights;
};

struct header {
	bool old_form; /* 2.x to 3.4: three lines */
	char *type; /* NULL in the old form */
	char *name; /* NULL if absent or NIL */
	char *uniqueid; /* "" if absent */
	char *quotaroot; /* NULL if absent or empty */
	char *jmapid; /* newest tree's J, NULL if absent */
	char *partition, *uidvalidity; /* only in mailboxes.db; NULL if absent */
	char *flags[HEADER_MAX_FLAGS]; /* NULL: a hole (NIL) or past the end */
	struct header_acl *acl;
	size_t n_acl;
};

/* Decodes a whole file. On success out owns its strings until header_fini. ERR_MANGLED. */
int header_decode(const void *p, size_t n, struct header *out);
/* The value of a record of mailboxes.db (F5.1), which says the same in the same notation. */
int header_decode_entry(const void *p, size_t n, struct header *out);
void header_fini(struct header *h);

/* Whose mailbox the folder dir is: by the path where that tells (folders by name: Cyrus leaves the
 * old name in cyrus.header when one is renamed), else by the name in h, which may be NULL. ""
 * when neither says. */
void header_owner(const struct header *h, const char *dir, char *out, size_t n);

struct buf;
/* Could s be written without quotes? Names of flags must be such atoms. */
bool header_is_atom(const char *s);
/* Writes the file of the form that h->old_form says, byte for byte as Cyrus does. */
int header_encode(const struct header *h, struct buf *out);

#endif
