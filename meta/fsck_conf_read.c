/*
 * How it works: mailboxes.db and annotations.db are copied whole while their read lock is held,
 * as Cyrus's readers do, which keeps writers out for as long as the copying takes; a file that was
 * replaced meanwhile is opened anew. With the lock no transaction can be under way: a header that
 * says so was left by a crash, and is for Cyrus to mend. Quota files are replaced whole, so they
 * are read without a lock; which folder they are hashed into does not matter, all are walked.
 */
#include "meta/fsck_conf.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/db.h"
#include "meta/fsck_own.h"
#include "meta/header.h"
#include "meta/imapd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_DATABASE ((size_t)1 << 30)
#define MAX_QUOTA 4096
#define LOCK_MS 10000

/* The file that the path names, locked for reading. */
static int
open_locked(const char *path, int *fd_out)
{
	uint64_t end = clock_ms() + LOCK_MS;

	for (;;) {
		struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET };
		struct stat here, there;
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return err_from_errno(errno);
		bool locked = fcntl(fd, F_OFD_SETLK, &lock) == 0;
		if (!locked && errno != EAGAIN && errno != EACCES) {
			close(fd);
			return ERR_IO;
		}
		if (locked && fstat(fd, &here) == 0 && stat(path, &there) == 0 &&
			here.st_dev == there.st_dev && here.st_ino == there.st_ino) {
			*fd_out = fd;
			return 0;
		}
		close(fd);
		if (clock_ms() >= end)
			return ERR_BUSY;
		usleep(10000);
	}
}

/* The array, which has n of size bytes, with room for one more, zeroed; NULL if there is none. */
static void *
room(void *array, size_t n, size_t size)
{
	if ((n & (n - 1)) == 0)
		array = realloc(array, (n ? 2 * n : 1) * size);
	if (array != NULL)
		memset((char *)array + n * size, 0, size);
	return array;
}

/* A name of mailboxes.db in the internal form. */
static char *
internal_name(const char *db, size_t n)
{
	char *name = strndup(db, n), *part = name;

	if (name == NULL)
		return NULL;
	char *domain_end = strchr(name, 0x1d);
	if (domain_end != NULL) {
		*domain_end = '!';
		part = domain_end + 1;
	}
	for (; *part != '\0'; part++)
		if (*part == '.')
			*part = '^';
		else if (*part == 0x1f)
			*part = '.';
	return name;
}

/* Moves a string out of *from. */
static char *
take(char **from)
{
	char *s = *from ? *from : strdup("");

	*from = NULL;
	return s;
}

struct reading {
	struct conf_tables *t;
	struct fsck_conf *conf;
	const char *path;
	bool told;
};

static int
refuse(struct reading *r, int rc, const char *what)
{
	r->told = true;
	snprintf(r->conf->why, sizeof(r->conf->why), "%s: %s", r->path, what);
	return rc;
}

static int
add_entry(void *arg, const uint8_t *key, size_t klen, const uint8_t *val, size_t vlen)
{
	struct reading *r = arg;
	struct conf_tables *t = r->t;
	struct header h;

	if (klen == 0)
		return refuse(r, ERR_MANGLED, "a record has no key");
	/* A: who may see what, derived from the rest. 0x1f: the version. */
	if (key[0] == 'A' || key[0] == '$' || key[0] == 0x1f)
		return 0;
	if (key[0] != 'N' && key[0] != 'I')
		return refuse(
			r, ERR_VERSION, "of a release before 3.6, which is not read");
	int rc = header_decode_entry(val, vlen, &h);
	if (rc != 0)
		return rc == ERR_NOMEM ? rc : refuse(r, rc, "a record does not parse");
	bool named = key[0] == 'N';
	struct conf_entry **table = named ? &t->names : &t->ids;
	size_t *n = named ? &t->n_names : &t->n_ids;
	struct conf_entry *grown = room(*table, *n, sizeof(*grown));
	if (grown != NULL) {
		const char *rest = (const char *)key + 1;
		struct conf_entry *e = &grown[*n];
		const char *name = h.name ? h.name : "";
		*table = grown;
		++*n;
		e->name = named ? internal_name(rest, klen - 1)
				: internal_name(name, strlen(name));
		e->id = named ? take(&h.uniqueid) : strndup(rest, klen - 1);
		e->type = take(&h.type);
		e->partition = take(&h.partition);
		e->uidvalidity = take(&h.uidvalidity);
		if (!e->name || !e->id || !e->type || !e->partition || !e->uidvalidity)
			rc = ERR_NOMEM;
	} else {
		rc = ERR_NOMEM;
	}
	header_fini(&h);
	return rc;
}

/* Pairs come by id, so those of one mailbox are side by side. */
static int
add_annot(void *arg, const uint8_t *key, size_t klen, const uint8_t *val, size_t vlen)
{
	struct reading *r = arg;
	struct conf_tables *t = r->t;
	struct db_annot a;
	const char *id;

	int rc = db_annot_decode_box(key, klen, val, vlen, &a, &id);
	if (rc != 0)
		return refuse(r, rc, "a record does not parse");
	if (a.flags & 1)
		return 0;
	if (t->n_annots == 0 || strcmp(t->annots[t->n_annots - 1].id, id) != 0) {
		struct conf_annot *grown = room(t->annots, t->n_annots, sizeof(*grown));
		if (grown == NULL)
			return ERR_NOMEM;
		t->annots = grown;
		if ((grown[t->n_annots].id = strdup(id)) == NULL)
			return ERR_NOMEM;
		t->n_annots++;
	}
	t->annots[t->n_annots - 1].bytes += a.value_len;
	return 0;
}

static int
read_database(struct reading *r, db_pair_fn *fn)
{
	struct buf file = BUF_INIT;
	int fd = -1, rc = open_locked(r->path, &fd);

	if (rc == ERR_BUSY)
		return refuse(r, rc, "somebody has held its lock for ten seconds");
	if (rc == 0) {
		rc = fsck_read_fd(fd, MAX_DATABASE, &file);
		close(fd);
	}
	if (rc == 0)
		rc = db_twoskip_walk(file.data, file.len, fn, r);
	buf_fini(&file);
	if (rc != 0 && !r->told)
		refuse(r, rc,
			rc == ERR_VERSION
				? "not a twoskip file, the one kind that is read"
			: rc == ERR_BUSY ? "a transaction is not finished; Cyrus "
					   "mends what a crash left when it starts"
					 : err_text(rc));
	return rc;
}

static int
add_resource(
	void *arg, const uint8_t *key, size_t klen, const uint8_t *val, size_t vlen)
{
	static const char *const keys[] = { "S", "M", "AS", "NF" };
	struct conf_root *root = arg;

	for (int i = 0; i < CONF_RESOURCES; i++) {
		if (klen != strlen(keys[i]) || memcmp(key, keys[i], klen) != 0)
			continue;
		root->has[i] = true;
		for (size_t k = 0; k < vlen && val[k] >= '0' && val[k] <= '9'; k++)
			root->used[i] = root->used[i] * 10 + (uint64_t)(val[k] - '0');
	}
	return 0;
}

static int
add_root(struct conf_tables *t, const char *domain, int at, const char *name)
{
	int fd = openat(at, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct buf file = BUF_INIT;

	if (fd < 0)
		return errno == ENOENT ? 0 : err_from_errno(errno);
	int rc = fsck_read_fd(fd, MAX_QUOTA, &file);
	close(fd);
	if (rc == 0) {
		struct conf_root *grown = room(t->roots, t->n_roots, sizeof(*grown));
		rc = ERR_NOMEM;
		if (grown != NULL) {
			struct conf_root *root = &grown[t->n_roots];
			/* That of a whole domain is the file "root". */
			bool whole = domain[0] && strcmp(name, "root") == 0;
			t->roots = grown;
			root->broken = db_quotalegacy_walk(file.data, file.len,
					       add_resource, root) != 0;
			if (asprintf(&root->name, "%s%s%s", domain,
				    domain[0] ? "!" : "", whole ? "" : name) > 0) {
				t->n_roots++;
				rc = 0;
			}
		}
	}
	buf_fini(&file);
	return rc;
}

typedef int visit_fn(void *arg, int at, const char *name);

/* Every entry of the folder name below at; one that is none, or not there, has none. */
static int
visit(int at, const char *name, visit_fn *fn, void *arg)
{
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *e;

	if (d == NULL) {
		rc = errno == ENOENT || errno == ENOTDIR ? 0 : err_from_errno(errno);
		if (fd >= 0)
			close(fd);
		return rc;
	}
	while (rc == 0 && (e = readdir(d)) != NULL)
		if (e->d_name[0] != '.')
			rc = fn(arg, dirfd(d), e->d_name);
	closedir(d);
	return rc;
}

struct quotas {
	struct conf_tables *t;
	const char *domain;
};

static bool
is_folder(int at, const char *name)
{
	struct stat st;

	return fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

/* quota/, and each folder of one letter in it. */
static int
visit_quota(void *arg, int at, const char *name)
{
	struct quotas *q = arg;
	size_t n = strlen(name);

	if (is_folder(at, name))
		return visit(at, name, visit_quota, q);
	if (n > 4 && strcmp(name + n - 4, ".NEW") == 0)
		return 0;
	return add_root(q->t, q->domain, at, name);
}

/* domain/ has domains, or letters with domains; a domain has quota/. */
static int
visit_domain(void *arg, int at, const char *name)
{
	struct quotas *q = arg;
	char path[300];

	if (strcmp(name, "quota") == 0 || strcmp(name, "user") == 0)
		return 0;
	snprintf(path, sizeof(path), "%s/quota", name);
	if (is_folder(at, path)) {
		q->domain = name;
		return visit(at, path, visit_quota, q);
	}
	return name[1] == '\0' ? visit(at, name, visit_domain, q) : 0;
}

static int
read_quotas(struct reading *r)
{
	struct quotas q = { r->t, "" };
	int fd = open(r->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return refuse(r, err_from_errno(errno), strerror(errno));
	int rc = visit(fd, "quota", visit_quota, &q);
	if (rc == 0)
		rc = visit(fd, "domain", visit_domain, &q);
	close(fd);
	return rc ? refuse(r, rc, "quota files cannot be read") : 0;
}

static int
by_name(const void *a, const void *b)
{
	return strcmp(((const struct conf_entry *)a)->name,
		((const struct conf_entry *)b)->name);
}

static int
by_id(const void *a, const void *b)
{
	return strcmp(
		((const struct conf_entry *)a)->id, ((const struct conf_entry *)b)->id);
}

static int
by_root(const void *a, const void *b)
{
	return strcmp(((const struct conf_root *)a)->name,
		((const struct conf_root *)b)->name);
}

static int
by_annot(const void *a, const void *b)
{
	return strcmp(
		((const struct conf_annot *)a)->id, ((const struct conf_annot *)b)->id);
}

int
conf_tables_read(struct fsck_conf *conf, struct conf_tables *out)
{
	struct reading r = { .t = out, .conf = conf, .path = conf->imapd->mailboxes };

	memset(out, 0, sizeof(*out));
	conf->why[0] = '\0';
	int rc = read_database(&r, add_entry);
	if (rc == 0) {
		r.path = conf->imapd->annotations;
		/* Cyrus makes it with the first annotation. */
		if (access(r.path, F_OK) == 0 || errno != ENOENT)
			rc = read_database(&r, add_annot);
	}
	if (rc == 0) {
		r.path = conf->imapd->configdirectory;
		rc = read_quotas(&r);
	}
	if (rc != 0) {
		conf_tables_fini(out);
		return rc;
	}
	/* The order of the file is another one with improved_mboxlist_sort. */
	if (out->n_names > 0)
		qsort(out->names, out->n_names, sizeof(*out->names), by_name);
	if (out->n_ids > 0)
		qsort(out->ids, out->n_ids, sizeof(*out->ids), by_id);
	if (out->n_roots > 0)
		qsort(out->roots, out->n_roots, sizeof(*out->roots), by_root);
	return 0;
}

static void
free_entries(struct conf_entry *e, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free(e[i].name);
		free(e[i].id);
		free(e[i].type);
		free(e[i].partition);
		free(e[i].uidvalidity);
	}
	free(e);
}

void
conf_tables_fini(struct conf_tables *t)
{
	free_entries(t->names, t->n_names);
	free_entries(t->ids, t->n_ids);
	for (size_t i = 0; i < t->n_roots; i++)
		free(t->roots[i].name);
	free(t->roots);
	for (size_t i = 0; i < t->n_annots; i++)
		free(t->annots[i].id);
	free(t->annots);
	memset(t, 0, sizeof(*t));
}

const struct conf_entry *
conf_find_id(const struct conf_tables *t, const char *id)
{
	struct conf_entry key = { .id = (char *)id };

	return t->n_ids ? bsearch(&key, t->ids, t->n_ids, sizeof(key), by_id) : NULL;
}

struct conf_root *
conf_find_root(const struct conf_tables *t, const char *name)
{
	struct conf_root key = { .name = (char *)name };

	return t->n_roots ? bsearch(&key, t->roots, t->n_roots, sizeof(key), by_root)
			  : NULL;
}

uint64_t
conf_annot_bytes(const struct conf_tables *t, const char *id)
{
	struct conf_annot key = { .id = (char *)id };
	const struct conf_annot *found =
		t->n_annots
			? bsearch(&key, t->annots, t->n_annots, sizeof(key), by_annot)
			: NULL;

	return found ? found->bytes : 0;
}
