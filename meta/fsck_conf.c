/*
 * How it works: every record of mailboxes.db that stands for a mailbox of this partition leads to
 * its folder, by its unique id or by the rules for names; what the walk has seen there is compared
 * with the record, with what annotations.db adds, and added to its quota root. Folders that no
 * record has led to are told last, then the quota roots whose sums differ. A root of which not
 * every mailbox could be counted, because it lies elsewhere or is damaged, is not judged.
 *
 * A mailbox that came or went between the walk and the reading of the databases is no finding.
 */
#include "meta/fsck_conf.h"
#include "meta/base/err.h"
#include "meta/fsck_own.h"
#include "meta/imapd.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_PATH 8192
#define CURE_RECORD \
	"put the record right: ctl_mboxlist -d writes all as text, -u reads it"
#define CURE_QUOTA "run quota -f"

struct conf_check {
	struct fsck *f;
	const struct fsck_conf *conf;
	struct conf_tables t;
	const struct fsck_place *places; /* by dir */
	const struct fsck_place **by_id;
	bool *listed; /* a record led to places[i] */
	size_t n;
};

int
fsck_conf_probe(struct fsck_conf *conf)
{
	struct conf_tables t;
	int rc = conf_tables_read(conf, &t);

	if (rc == 0)
		conf_tables_fini(&t);
	return rc == ERR_MANGLED || rc == ERR_CHECKSUM ? 0 : rc;
}

static int
compare_dir(const void *dir, const void *place)
{
	return strcmp(dir, ((const struct fsck_place *)place)->dir);
}

static const char *
id_of(const struct fsck_place *place)
{
	return place->id ? place->id : "";
}

static int
compare_id(const void *id, const void *place)
{
	return strcmp(id, id_of(*(const struct fsck_place *const *)place));
}

static int
by_id(const void *a, const void *b)
{
	return compare_id(id_of(*(const struct fsck_place *const *)a), b);
}

/* The folder that Cyrus looks for the mailbox in (F1). False: there can be none. */
static bool
folder_of(const struct imapd *c, const struct conf_entry *e, char *out, size_t n)
{
	const char *name = e->name, *bang = strchr(name, '!'), *second;
	size_t len = 0;

	if (strchr(e->type, 'l') == NULL) {
		if (strlen(e->id) < 2 || strchr(e->id, '/') != NULL)
			return false;
		return (size_t)snprintf(
			       out, n, "uuid/%c/%c/%s", e->id[0], e->id[1], e->id) < n;
	}
	if (name[0] == '\0' || strchr(name, '/') != NULL || strlen(name) + 20 > n)
		return false;
	if (bang != NULL) {
		char domain[300];
		snprintf(domain, sizeof(domain), "%.*s", (int)(bang - name), name);
		len = (size_t)snprintf(out, n, "domain/");
		if (c->hashimapspool)
			len += (size_t)snprintf(out + len, n - len, "%c/",
				c->fulldirhash ? fsck_hash_full(domain)
					       : fsck_hash_plain(domain));
		len += (size_t)snprintf(out + len, n - len, "%s/", domain);
		name = bang + 1;
	}
	if (c->hashimapspool) {
		second = strchr(name, '.') ? strchr(name, '.') + 1 : name;
		len += (size_t)snprintf(out + len, n - len, "%c/",
			c->fulldirhash ? fsck_hash_full(second)
				       : fsck_hash_plain(second));
	}
	snprintf(out + len, n - len, "%s", name);
	for (char *p = out + len; *p != '\0'; p++)
		if (*p == '.')
			*p = '/';
	return true;
}

/* Whatever root the mailbox belongs to, its sum is not known: it itself, what it lies in, or its
 * domain, whose root ends with the "!". */
static void
spoil_roots(struct conf_check *c, const char *name)
{
	char root[MAX_PATH];

	for (size_t n = 1; n < sizeof(root) && n <= strlen(name); n++) {
		if (name[n] != '.' && name[n] != '\0' && name[n - 1] != '!')
			continue;
		memcpy(root, name, n);
		root[n] = '\0';
		struct conf_root *found = conf_find_root(&c->t, root);
		if (found != NULL)
			found->unknown = true;
	}
}

static void
check_pair(struct conf_check *c, const struct conf_entry *e)
{
	const struct conf_entry *other = conf_find_id(&c->t, e->id);
	const struct {
		const char *what, *here, *there;
	} rows[] = {
		{ "name", e->name, other ? other->name : "" },
		{ "type", e->type, other ? other->type : "" },
		{ "partition", e->partition, other ? other->partition : "" },
		{ "UID validity", e->uidvalidity, other ? other->uidvalidity : "" },
	};

	c->f->dir = e->name;
	if (other == NULL) {
		fsck_tell(c->f, FSCK_MUST, 0, "mboxlist-pair", CURE_RECORD,
			"mailboxes.db has no record of its unique id %.64s", e->id);
		return;
	}
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (strcmp(rows[i].here, rows[i].there) != 0)
			fsck_tell(c->f, FSCK_MUST, 0, "mboxlist-pair", CURE_RECORD,
				"its record in mailboxes.db says %s %.80s, that of its "
				"unique id %.80s",
				rows[i].what, rows[i].here, rows[i].there);
}

/* The mailbox of the record: where it must be, else wherever it is, else NULL. */
static const struct fsck_place *
find_place(struct conf_check *c, const struct conf_entry *e, const char *dir)
{
	const struct fsck_place *place =
		c->n ? bsearch(dir, c->places, c->n, sizeof(*place), compare_dir)
		     : NULL;
	char header[MAX_PATH + 20];

	if (place != NULL)
		return place;
	const struct fsck_place **moved =
		c->n && e->id[0]
			? bsearch(e->id, c->by_id, c->n, sizeof(*c->by_id), compare_id)
			: NULL;
	if (moved != NULL) {
		c->f->dir = (*moved)->dir;
		fsck_tell(c->f, FSCK_MUST, 0, "mailbox-path",
			"move the folder there, or put the record right",
			"Cyrus looks for this mailbox in %.200s", dir);
		return *moved;
	}
	snprintf(header, sizeof(header), "%s/cyrus.header", dir);
	c->f->dir = dir;
	if (faccessat(c->f->fd, header, F_OK, AT_SYMLINK_NOFOLLOW) != 0)
		fsck_tell(c->f, FSCK_MUST, 0, "mailbox-missing", FSCK_RESTORE,
			"mailboxes.db has %.100s here, but there is no mailbox",
			e->name);
	return NULL;
}

static void
check_names(struct conf_check *c, const struct conf_entry *e,
	const struct fsck_place *place)
{
	if (place->id == NULL)
		return;
	if (place->id[0] != '\0' && strcmp(place->id, e->id) != 0)
		fsck_tell(c->f, FSCK_MUST, 0, "mailbox-id", FSCK_RECONSTRUCT,
			"cyrus.header has the unique id %.64s, mailboxes.db %.64s",
			place->id, e->id);
	/* In the layout by name Cyrus leaves the old name there when it renames a mailbox. */
	if (strchr(e->type, 'l') == NULL && place->name != NULL &&
		strcmp(place->name, e->name) != 0)
		fsck_tell(c->f, FSCK_MUST, 0, "mailbox-name", FSCK_RECONSTRUCT,
			"cyrus.header has the name %.100s, mailboxes.db %.100s",
			place->name, e->name);
}

static void
check_index(struct conf_check *c, const struct conf_entry *e,
	const struct fsck_place *place)
{
	const struct index_header *h = &place->index;
	char text[20];

	snprintf(text, sizeof(text), "%u", h->uidvalidity);
	if (e->uidvalidity[0] != '\0' && strcmp(text, e->uidvalidity) != 0)
		fsck_tell(c->f, FSCK_MUST, 0, "mailbox-uidvalidity", FSCK_RECONSTRUCT,
			"cyrus.index has the UID validity %s, mailboxes.db %.20s", text,
			e->uidvalidity);
	if (!place->annots_known || h->minor_version < 13)
		return;
	uint64_t own = conf_annot_bytes(&c->t, e->id);
	/* Less than those of the messages alone is a finding already. */
	if (h->quota_annot_used >= place->annot_bytes &&
		h->quota_annot_used != place->annot_bytes + own)
		fsck_tell(c->f, FSCK_SHOULD, 0, "mailbox-annot", FSCK_RECONSTRUCT,
			"annotations take %" PRIu64 " bytes in cyrus.annotations and "
			"%" PRIu64 " in annotations.db, the header says %" PRIu64,
			place->annot_bytes, own, h->quota_annot_used);
}

static void
add_to_root(struct conf_check *c, const struct conf_entry *e,
	const struct fsck_place *place)
{
	const struct index_header *h = &place->index;

	if (place->id == NULL || !place->have_index || h->minor_version < 12) {
		spoil_roots(c, e->name);
		return;
	}
	if (place->quotaroot == NULL || (h->options & INDEX_OPT_DELETED))
		return;
	struct conf_root *root = conf_find_root(&c->t, place->quotaroot);
	if (root == NULL) {
		fsck_tell(c->f, FSCK_SHOULD, 0, "quota-root", CURE_QUOTA,
			"there is no quota file of its quota root %.100s",
			place->quotaroot);
		return;
	}
	root->sum[CONF_STORAGE] += h->quota_mailbox_used;
	root->sum[CONF_MESSAGES] += h->exists;
	root->sum[CONF_ANNOTS] += h->quota_annot_used;
	if (h->minor_version < 13) /* does not keep it */
		root->has[CONF_ANNOTS] = false;
	root->sum[CONF_FOLDERS]++;
}

static void
check_entry(struct conf_check *c, const struct conf_entry *e)
{
	char dir[MAX_PATH];

	/* Deleted, intermediate, being moved, reserved: no mailbox. */
	if (strpbrk(e->type, "dimz") != NULL)
		return;
	check_pair(c, e);
	if (strchr(e->type, 'r') != NULL ||
		strcmp(e->partition, c->conf->partition) != 0) {
		spoil_roots(c, e->name);
		return;
	}
	const struct fsck_place *place = NULL;
	if (folder_of(c->conf->imapd, e, dir, sizeof(dir)))
		place = find_place(c, e, dir);
	if (place == NULL) {
		spoil_roots(c, e->name);
		return;
	}
	c->listed[place - c->places] = true;
	c->f->dir = place->dir;
	check_names(c, e, place);
	if (place->have_index)
		check_index(c, e, place);
	add_to_root(c, e, place);
}

static void
check_unlisted(struct conf_check *c, const struct fsck_place *place)
{
	const struct conf_entry *other = conf_find_id(&c->t, id_of(place));
	struct conf_root *root =
		place->quotaroot ? conf_find_root(&c->t, place->quotaroot) : NULL;

	if (place->have_index && (place->index.options & INDEX_OPT_DELETED))
		return;
	/* Cyrus has counted it, or has not. */
	if (root != NULL)
		root->unknown = true;
	if (faccessat(c->f->fd, place->dir, F_OK, AT_SYMLINK_NOFOLLOW) != 0)
		return;
	c->f->dir = place->dir;
	if (other != NULL && strcmp(other->partition, c->conf->partition) != 0)
		fsck_tell(c->f, FSCK_MUST, 0, "mailbox-unlisted",
			"remove the folder, if the mailbox is whole there",
			"mailboxes.db has this mailbox on the partition %.80s",
			other->partition);
	else
		fsck_tell(c->f, FSCK_MUST, 0, "mailbox-unlisted",
			"run reconstruct -P on its cyrus.header, or remove the folder",
			"mailboxes.db has no mailbox here");
}

static void
check_root(struct conf_check *c, const struct conf_root *root)
{
	static const char *const what[] = { "bytes of messages", "messages",
		"bytes of annotations", "folders" };

	c->f->dir = root->name;
	if (root->broken) {
		fsck_tell(c->f, FSCK_SHOULD, 0, "quota-root", CURE_QUOTA,
			"its quota file does not parse");
		return;
	}
	for (int i = 0; i < CONF_RESOURCES && !root->unknown; i++)
		if (root->has[i] && root->used[i] != root->sum[i])
			fsck_tell(c->f, FSCK_SHOULD, 0, "quota-usage", CURE_QUOTA,
				"its quota file counts %" PRIu64 " %s, its mailboxes "
				"have %" PRIu64,
				root->used[i], what[i], root->sum[i]);
}

int
fsck_conf_check(struct fsck *f, const struct fsck_place *places, size_t n)
{
	struct conf_check c = {
		.f = f, .conf = f->options->conf, .places = places, .n = n
	};
	int rc = conf_tables_read(f->options->conf, &c.t);

	if (rc == ERR_MANGLED || rc == ERR_CHECKSUM) {
		f->dir = f->options->conf->imapd->configdirectory;
		fsck_tell(f, FSCK_MUST, 0, "conf-db",
			"restore it from a backup; nothing was compared with it", "%s",
			c.conf->why);
		return 0;
	}
	if (rc != 0)
		return rc;
	c.by_id = calloc(n + 1, sizeof(*c.by_id));
	c.listed = calloc(n + 1, sizeof(*c.listed));
	rc = c.by_id && c.listed ? 0 : ERR_NOMEM;
	if (rc == 0) {
		for (size_t i = 0; i < n; i++)
			c.by_id[i] = &places[i];
		qsort(c.by_id, n, sizeof(*c.by_id), by_id);
		for (size_t i = 0; i < c.t.n_names; i++)
			check_entry(&c, &c.t.names[i]);
		for (size_t i = 0; i < n; i++)
			if (!c.listed[i])
				check_unlisted(&c, &places[i]);
		for (size_t i = 0; i < c.t.n_roots; i++)
			check_root(&c, &c.t.roots[i]);
	}
	free(c.by_id);
	free(c.listed);
	conf_tables_fini(&c.t);
	return rc;
}
