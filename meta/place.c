/*
 * place.c - the table of names that Cyrus uses in a partition.
 *
 * stage./, sync./ and .twinspool/ mean something only in the root, and hand their kind to
 * everything below, and so does whatever is called *.NEW, anywhere. Elsewhere a folder is a folder,
 * whatever its name, and only regular files have Cyrus's names. The root is never a mailbox, so its
 * files are plain files.
 */
#include "meta/place.h"

#include <string.h>
#include <sys/stat.h>

#define NEW_SUFFIX ".NEW"

static const struct {
	const char *name;
	enum place_kind kind;
} in_root[] = {
	{ "stage.", PLACE_STAGE },
	{ "sync.", PLACE_SYNC },
	{ ".twinspool", PLACE_OWN },
};

static const struct {
	const char *name;
	enum place_kind kind;
} in_mailbox[] = {
	{ "cyrus.index", PLACE_INDEX },
	{ "cyrus.header", PLACE_HEADER },
	{ "cyrus.cache", PLACE_CACHE },
	{ "cyrus.annotations", PLACE_ANNOT },
};

/* Whether name is <uid>. as Cyrus writes it: digits, no leading zero, then one dot. */
static bool
take_uid(const char *name, uint32_t *uid_out)
{
	uint64_t n = 0;

	*uid_out = 0;
	if (name[0] < '1' || name[0] > '9')
		return false;
	for (; *name >= '0' && *name <= '9'; name++) {
		n = n * 10 + (uint64_t)(*name - '0');
		if (n > UINT32_MAX)
			return false;
	}
	if (strcmp(name, ".") != 0)
		return false;
	*uid_out = (uint32_t)n;
	return true;
}

static bool
is_new(const char *name)
{
	size_t n = strlen(name), m = strlen(NEW_SUFFIX);

	return n >= m && strcmp(name + n - m, NEW_SUFFIX) == 0;
}

static struct place
step_folder(struct place parent, const char *name)
{
	if (parent.kind == PLACE_ROOT) {
		for (size_t i = 0; i < sizeof(in_root) / sizeof(in_root[0]); i++) {
			if (strcmp(name, in_root[i].name) == 0)
				return (struct place){ in_root[i].kind, 0, 0 };
		}
	}
	return (struct place){ PLACE_DIR, 0, 0 };
}

static struct place
step_file(const char *name)
{
	uint32_t uid;

	if (take_uid(name, &uid))
		return (struct place){ PLACE_MESSAGE, 0, uid };
	for (size_t i = 0; i < sizeof(in_mailbox) / sizeof(in_mailbox[0]); i++) {
		size_t n = strlen(in_mailbox[i].name);

		if (strncmp(name, in_mailbox[i].name, n) != 0)
			continue;
		if (name[n] == '\0')
			return (struct place){ in_mailbox[i].kind, 0, 0 };
		if (strcmp(name + n, NEW_SUFFIX) == 0)
			return (struct place){ PLACE_NEW, in_mailbox[i].kind, 0 };
	}
	return (struct place){ PLACE_FILE, 0, 0 };
}

struct place
place_step(struct place parent, const char *name, mode_t mode)
{
	switch (parent.kind) {
	case PLACE_STAGE:
	case PLACE_SYNC:
	case PLACE_OWN:
	case PLACE_NEW:
		return (struct place){ parent.kind, 0, 0 };
	case PLACE_ROOT:
	case PLACE_DIR:
		break;
	default: /* not a folder at all */
		return (struct place){ PLACE_FILE, 0, 0 };
	}
	struct place at = { PLACE_FILE, 0, 0 };
	if (S_ISDIR(mode))
		at = step_folder(parent, name);
	else if (S_ISREG(mode) && parent.kind == PLACE_DIR)
		at = step_file(name);
	if (at.kind != PLACE_NEW && is_new(name))
		at = (struct place){ PLACE_NEW, PLACE_NONE, 0 };
	return at;
}

enum disk_what
place_disk(struct place p)
{
	switch (p.kind == PLACE_NEW ? p.which : p.kind) {
	case PLACE_ROOT:
	case PLACE_DIR:
		return DISK_FOLDER;
	case PLACE_INDEX:
		return DISK_INDEX;
	case PLACE_HEADER:
		return DISK_HEADER;
	case PLACE_CACHE:
		return DISK_CACHE;
	case PLACE_ANNOT:
		return DISK_ANNOT;
	case PLACE_MESSAGE:
	case PLACE_STAGE:
		return DISK_BODY;
	default:
		return DISK_FILE;
	}
}
