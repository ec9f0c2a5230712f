/*
 * How it works: a folder that holds cyrus.header or cyrus.index is a mailbox. Its small files are
 * read whole, once; then come cyrus.header, the index with all that hangs on its records
 * (fsck_index.c), and last the names in the folder that no record explains. The walk over a
 * spool goes through folders by descriptor, never through symlinks, and keeps the unique id of
 * each mailbox, which must not occur twice.
 */
#include "meta/fsck_own.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_INDEX ((size_t)1 << 30)
#define MAX_DEPTH 100
#define MAX_PATH 8192
#define OLD_SECONDS 86400

void
fsck_tell(struct fsck *f, enum fsck_class class, uint32_t uid, const char *check,
	const char *cure, const char *fmt, ...)
{
	char text[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	struct fsck_finding finding = { class, f->dir, uid, check, text, cure };
	f->counts->findings++;
	f->say(f->arg, &finding);
}

int
fsck_read_fd(int fd, size_t max, struct buf *out)
{
	struct stat st;
	int rc = 0;

	if (fstat(fd, &st) != 0)
		rc = ERR_IO;
	else if (!S_ISREG(st.st_mode))
		rc = ERR_MANGLED;
	else if ((uint64_t)st.st_size > max)
		rc = ERR_LIMIT;
	while (rc == 0) {
		size_t want = (size_t)st.st_size >= out->len + 4096
				      ? (size_t)st.st_size - out->len
				      : 4096;
		uint8_t *at = buf_room(out, want);
		if (at == NULL) {
			rc = buf_ok(out);
			break;
		}
		ssize_t n = read(fd, at, want);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			rc = err_from_errno(errno);
		if (n <= 0)
			break;
		out->len += (size_t)n;
		if (out->len > max)
			rc = ERR_LIMIT;
	}
	return rc;
}

int
fsck_read(struct fsck *f, const char *name, size_t max, struct buf *out)
{
	int fd = openat(f->fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return err_from_errno(errno);
	int rc = fsck_read_fd(fd, max, out);
	close(fd);
	return rc;
}

/* The unique id that the path says, in the layout by id; else NULL. */
static const char *
id_of_path(const char *dir)
{
	const char *at = dir;

	if (strncmp(at, "uuid/", 5) != 0)
		return NULL;
	at += 5;
	if (at[0] == '\0' || at[1] != '/' || at[2] == '\0' || at[3] != '/' ||
		strchr(at + 4, '/') != NULL)
		return NULL;
	return at + 4;
}

char
fsck_hash_plain(const char *part)
{
	char c = part[0] >= 'A' && part[0] <= 'Z' ? (char)(part[0] - 'A' + 'a')
						  : part[0];

	return c >= 'a' && c <= 'z' ? c : 'q';
}

char
fsck_hash_full(const char *part)
{
	uint32_t n = 0;

	/* Up to the first dot, which in a folder's name is ^. */
	for (; *part != '\0' && strchr("/.^", *part) == NULL; part++)
		n = ((n << 3) ^ (n >> 5)) ^ (uint8_t)*part;
	return (char)('A' + n % 23);
}

static void
tell_hash(struct fsck *f, const char *hash, const char *part)
{
	if (hash[0] != fsck_hash_plain(part) && hash[0] != fsck_hash_full(part))
		fsck_tell(f, FSCK_MUST, 0, "path-hash",
			"move the folder, or run reconstruct for the right one",
			"the folder belongs below %c/ or %c/", fsck_hash_plain(part),
			fsck_hash_full(part));
}

/* In the layout by name the first folder may be a hash of the second part of the name. Other
 * names than these two could as well be a mailbox of one letter. Below domain/ there may be one
 * of the domain's name before it. */
static void
check_hash(struct fsck *f)
{
	const char *top = f->dir, *part;

	if (strncmp(top, "domain/", 7) == 0) {
		top += 7;
		if (top[0] != '\0' && top[1] == '/' &&
			memchr(top + 2, '.', strcspn(top + 2, "/")) != NULL) {
			tell_hash(f, top, top + 2);
			top += 2;
		}
		top += strcspn(top, "/");
		top += *top == '/';
	}
	if (top[0] == '\0' || top[1] != '/')
		return;
	part = top + 2;
	if (strncmp(part, "user/", 5) == 0)
		tell_hash(f, top, part + 5);
	else if (strncmp(part, "DELETED/", 8) == 0)
		tell_hash(f, top, part + 8);
}

static void
check_flag_names(struct fsck *f)
{
	char *const *flags = f->names.flags;

	for (int i = 0; i < HEADER_MAX_FLAGS; i++) {
		if (flags[i] == NULL)
			continue;
		if (!header_is_atom(flags[i]))
			fsck_tell(f, FSCK_MUST, 0, "header-flags", FSCK_RECONSTRUCT,
				"keyword number %d has no valid name", i);
		for (int k = 0; k < i; k++)
			if (flags[k] != NULL && strcasecmp(flags[k], flags[i]) == 0)
				fsck_tell(f, FSCK_MUST, 0, "header-flags",
					FSCK_RECONSTRUCT,
					"keywords number %d and %d have the same name",
					k, i);
	}
}

static int
check_names(struct fsck *f)
{
	int rc = fsck_read(f, "cyrus.header", HEADER_MAX_FILE, &f->file);

	if (rc == ERR_NOTFOUND) {
		fsck_tell(f, FSCK_MUST, 0, "header-missing", FSCK_RESTORE,
			"there is no cyrus.header");
		return 0;
	}
	if (rc == 0)
		rc = header_decode(f->file.data, f->file.len, &f->names);
	if (rc == ERR_MANGLED || rc == ERR_LIMIT) {
		fsck_tell(f, FSCK_MUST, 0, "header-format", FSCK_RESTORE,
			"cyrus.header does not parse");
		return 0;
	}
	if (rc != 0)
		return rc;
	f->have_names = true;
	check_flag_names(f);
	const char *id = id_of_path(f->dir);
	if (f->names.uniqueid[0] == '\0')
		fsck_tell(f, FSCK_MUST, 0, "header-uniqueid", FSCK_RECONSTRUCT,
			"cyrus.header has no unique id");
	else if (id != NULL && (strcmp(id, f->names.uniqueid) != 0 ||
				       f->dir[5] != id[0] || f->dir[7] != id[1]))
		fsck_tell(f, FSCK_MUST, 0, "header-uniqueid", FSCK_RESTORE,
			"the folder is not that of the unique id %.64s",
			f->names.uniqueid);
	else if (id != NULL && f->names.type != NULL &&
		 strchr(f->names.type, 'l') != NULL)
		fsck_tell(f, FSCK_MUST, 0, "header-path", FSCK_RESTORE,
			"the type says folders by name, the folder is by id");
	return 0;
}

static bool
is_number(const char *name, uint32_t *uid_out)
{
	uint64_t uid = 0;
	const char *p = name;

	for (; *p >= '0' && *p <= '9'; p++)
		if ((uid = uid * 10 + (uint64_t)(*p - '0')) > UINT32_MAX)
			return false;
	*uid_out = (uint32_t)uid;
	return p > name && strcmp(p, ".") == 0 && name[0] != '0';
}

/* A name in the folder that is no folder. */
static void
check_name(struct fsck *f, const char *name)
{
	static const char *const known[] = { "cyrus.header", "cyrus.index",
		"cyrus.cache", "cyrus.annotations", "cyrus.squat", "cyrus.dav",
		"cyrus.expunge", "cyrus.seen" };
	uint32_t uid, i;
	size_t n = strlen(name);

	if (n > 4 && strcmp(name + n - 4, ".NEW") == 0) {
		fsck_tell(f, FSCK_TRANSIENT, 0, "leftover", FSCK_REMOVE,
			"%.80s is left from a change that was not finished", name);
		return;
	}
	if (strncmp(name, ".fuse_hidden", 12) == 0) {
		fsck_tell(f, FSCK_SHOULD, 0, "leftover", FSCK_REMOVE,
			"%.80s is left from another filesystem", name);
		return;
	}
	for (size_t k = 0; k < sizeof(known) / sizeof(known[0]); k++)
		if (strcmp(name, known[k]) == 0)
			return;
	if (!is_number(name, &uid)) {
		fsck_tell(f, FSCK_SHOULD, 0, "odd-file", FSCK_REMOVE,
			"%.80s is no file of Cyrus", name);
		return;
	}
	if (f->have_index && index_view_find(&f->v, uid, &i) != 0)
		fsck_tell(f, FSCK_SHOULD, uid, "message-unknown", FSCK_RECONSTRUCT,
			uid > f->v.header.last_uid
				? "a file without a record: left from an append that "
				  "failed"
				: "a file without a record");
}

static bool
is_folder(int fd, const struct dirent *e)
{
	struct stat st;

	if (e->d_type != DT_UNKNOWN)
		return e->d_type == DT_DIR;
	return fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       S_ISDIR(st.st_mode);
}

static DIR *
open_folder(int at, const char *name)
{
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;

	if (d == NULL && fd >= 0)
		close(fd);
	return d;
}

static int
check_files(struct fsck *f)
{
	DIR *d = open_folder(f->fd, ".");
	struct dirent *e;

	if (d == NULL)
		return err_from_errno(errno);
	while ((e = readdir(d)) != NULL)
		if (!is_folder(f->fd, e))
			check_name(f, e->d_name);
	closedir(d);
	return 0;
}

/* Takes from the mailbox in hand what its place remembers. */
static void
fill_place(struct fsck *f, struct fsck_place *place)
{
	struct header *h = &f->names;

	place->id = h->uniqueid;
	place->name = h->name;
	place->quotaroot = h->quotaroot;
	h->uniqueid = h->name = h->quotaroot = NULL;
	place->have_index = f->have_index;
	place->index = f->v.header;
	place->annots_known = f->annots_known;
	place->annot_bytes = f->annot_bytes;
}

/* With place all of it but the folder, which the caller frees. */
static int
check_mailbox(int fd, const char *dir, const struct fsck_options *options,
	fsck_say *say, void *arg, struct fsck_counts *counts, struct fsck_place *place)
{
	struct fsck f = { .options = options,
		.say = say,
		.arg = arg,
		.counts = counts,
		.dir = dir,
		.fd = fd,
		.index = BUF_INIT,
		.file = BUF_INIT };
	int rc = check_names(&f);

	counts->mailboxes++;
	if (rc != 0)
		goto out;
	header_owner(f.have_names ? &f.names : NULL, dir, f.owner, sizeof(f.owner));
	check_hash(&f);
	rc = fsck_read(&f, "cyrus.index", MAX_INDEX, &f.index);
	if (rc == ERR_NOTFOUND)
		fsck_tell(&f, FSCK_MUST, 0, "index-missing", FSCK_RECONSTRUCT,
			"there is no cyrus.index");
	else if (rc != 0)
		goto out;
	else
		f.have_index = fsck_index_open(&f);
	rc = f.have_index ? fsck_index_check(&f) : 0;
	if (rc == 0)
		rc = check_files(&f);
	if (rc == 0 && place != NULL)
		fill_place(&f, place);
out:
	header_fini(&f.names);
	buf_fini(&f.index);
	buf_fini(&f.file);
	return rc;
}

int
fsck_mailbox(int root_fd, const char *dir, const struct fsck_options *options,
	fsck_say *say, void *arg, struct fsck_counts *counts)
{
	int fd = openat(root_fd, dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		return err_from_errno(errno);
	int rc = check_mailbox(fd, dir, options, say, arg, counts, NULL);
	close(fd);
	return rc;
}

struct walk {
	const struct fsck_options *options;
	fsck_say *say;
	void *arg;
	struct fsck_counts *counts;
	char path[MAX_PATH]; /* of the folder in hand, "" for the root */
	struct fsck_place *seen;
	size_t n_seen, cap_seen;
};

/* A mailbox in the folder fd, which is the one in hand. */
static int
walk_mailbox(struct walk *w, int fd)
{
	if (w->n_seen == w->cap_seen) {
		size_t cap = w->cap_seen ? w->cap_seen * 2 : 64;
		struct fsck_place *grown = realloc(w->seen, cap * sizeof(*grown));
		if (grown == NULL)
			return ERR_NOMEM;
		w->seen = grown;
		w->cap_seen = cap;
	}
	struct fsck_place *place = &w->seen[w->n_seen];
	memset(place, 0, sizeof(*place));
	place->dir = strdup(w->path[0] ? w->path : ".");
	if (place->dir == NULL)
		return ERR_NOMEM;
	w->n_seen++;
	return check_mailbox(
		fd, place->dir, w->options, w->say, w->arg, w->counts, place);
}

static const char *
id_of(const struct fsck_place *place)
{
	return place->id ? place->id : "";
}

static int
by_id(const void *a, const void *b)
{
	return strcmp(id_of(a), id_of(b));
}

static int
by_dir(const void *a, const void *b)
{
	const struct fsck_place *one = a, *other = b;

	return strcmp(one->dir, other->dir);
}

static void
check_unique(struct walk *w)
{
	struct fsck f = { .say = w->say, .arg = w->arg, .counts = w->counts };

	if (w->n_seen > 0)
		qsort(w->seen, w->n_seen, sizeof(*w->seen), by_id);
	for (size_t i = 1; i < w->n_seen; i++) {
		const char *id = id_of(&w->seen[i]);
		if (id[0] == '\0' || strcmp(id, id_of(&w->seen[i - 1])) != 0)
			continue;
		f.dir = w->seen[i].dir;
		fsck_tell(&f, FSCK_MUST, 0, "uniqueid-twice",
			"run reconstruct -I on one of the two",
			"has the same unique id as %.200s", w->seen[i - 1].dir);
	}
}

static int
check_conf(struct walk *w, int root_fd)
{
	struct fsck f = { .options = w->options,
		.say = w->say,
		.arg = w->arg,
		.counts = w->counts,
		.fd = root_fd };

	if (w->n_seen > 0)
		qsort(w->seen, w->n_seen, sizeof(*w->seen), by_dir);
	return fsck_conf_check(&f, w->seen, w->n_seen);
}

/* stage. and sync.: what is old there was left by a crash. */
static int
check_stage(struct walk *w, int at, const char *name)
{
	struct fsck f = {
		.say = w->say, .arg = w->arg, .counts = w->counts, .dir = name
	};
	DIR *d = open_folder(at, name);
	uint64_t now = clock_wall_ns() / 1000000000u;
	struct dirent *e;
	struct stat st;

	if (d == NULL)
		return err_from_errno(errno);
	while ((e = readdir(d)) != NULL)
		if (e->d_name[0] != '.' &&
			fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
			(uint64_t)st.st_mtime + OLD_SECONDS < now)
			fsck_tell(&f, FSCK_SHOULD, 0, "stage-old",
				"remove it; nothing reads it",
				"%.80s is older than a day", e->d_name);
	closedir(d);
	return 0;
}

static int
walk_folder(struct walk *w, int at, const char *name, int depth)
{
	size_t len = strlen(w->path);
	DIR *d = open_folder(at, name);
	bool mailbox = false;
	struct dirent *e;
	int rc = 0;

	if (d == NULL)
		return errno == ENOENT ? 0 : err_from_errno(errno);
	if (faccessat(dirfd(d), "cyrus.header", F_OK, AT_SYMLINK_NOFOLLOW) == 0 ||
		faccessat(dirfd(d), "cyrus.index", F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		mailbox = true;
	if (mailbox)
		rc = walk_mailbox(w, dirfd(d));
	while (rc == 0 && (e = readdir(d)) != NULL) {
		if (!is_folder(dirfd(d), e) || strcmp(e->d_name, ".") == 0 ||
			strcmp(e->d_name, "..") == 0)
			continue;
		if (depth == 0 && strcmp(e->d_name, ".twinspool") == 0)
			continue;
		if (depth == 0 && (strcmp(e->d_name, "stage.") == 0 ||
					  strcmp(e->d_name, "sync.") == 0)) {
			rc = check_stage(w, dirfd(d), e->d_name);
			continue;
		}
		size_t n = strlen(e->d_name);
		rc = ERR_LIMIT;
		if (depth == MAX_DEPTH || len + n + 2 > sizeof(w->path))
			break;
		snprintf(w->path + len, sizeof(w->path) - len, "%s%s", len ? "/" : "",
			e->d_name);
		rc = walk_folder(w, dirfd(d), e->d_name, depth + 1);
		w->path[len] = '\0';
	}
	closedir(d);
	return rc;
}

int
fsck_spool(int root_fd, const struct fsck_options *options, fsck_say *say, void *arg,
	struct fsck_counts *counts)
{
	struct walk *w = calloc(1, sizeof(*w));

	if (w == NULL)
		return ERR_NOMEM;
	w->options = options;
	w->say = say;
	w->arg = arg;
	w->counts = counts;
	int rc = options->conf ? fsck_conf_probe(options->conf) : 0;
	if (rc == 0)
		rc = walk_folder(w, root_fd, ".", 0);
	if (rc == 0)
		check_unique(w);
	if (rc == 0 && options->conf != NULL)
		rc = check_conf(w, root_fd);
	for (size_t i = 0; i < w->n_seen; i++) {
		free(w->seen[i].id);
		free(w->seen[i].dir);
		free(w->seen[i].name);
		free(w->seen[i].quotaroot);
	}
	free(w->seen);
	free(w);
	return rc;
}
