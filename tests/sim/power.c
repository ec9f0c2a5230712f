/*
 * The disk is a tree of nodes, as of the last sync; what came after waits: changes of names and
 * attributes in one list, in their order, changes of bytes with each file. A sync of a file takes
 * its own bytes and the whole list over. A cut takes over a part, forgets the rest, and makes the
 * folder anew from the tree.
 *
 * The log names nodes by inode number, and numbers are used again: a number means the node that
 * was last made with it, so each line is resolved when it is read.
 */
#include "tests/sim/power.h"
#include "tests/sim/power_own.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { UNIT = 512, BUCKETS = 1024 };

struct entry {
	struct entry *next;
	struct node *node;
	char name[256];
};

struct bytes_op {
	struct bytes_op *next;
	bool size; /* else bytes are written */
	uint64_t at, n, time;
	uint8_t data[];
};

struct node {
	struct node *next; /* all nodes */
	struct node *same_bucket;
	uint64_t ino, mtime;
	uint64_t timed; /* when mtime was set; what is older does not change it */
	uint32_t mode, uid, gid;
	struct entry *entries; /* a folder's */
	uint8_t *bytes; /* a file's, or a link's target */
	size_t n;
	struct bytes_op *ops, **ops_end;
	char *placed; /* by the cut that runs */
};

struct names_op {
	struct names_op *next;
	enum power_kind kind;
	struct node *dir, *dir2, *node;
	uint32_t mode, uid, gid;
	uint64_t at, time;
	char name[256], name2[256];
};

struct power {
	char root[300], log[310];
	struct node *all, *top;
	struct node *by_ino[BUCKETS];
	struct names_op *names, **names_end;
	off_t read_upto;
	struct power_facts facts;
};

static void *
made(size_t n)
{
	void *p = calloc(1, n > 0 ? n : 1);

	if (p == NULL)
		abort();
	return p;
}

static void
must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "power: %s: %s\n", what, strerror(errno));
	abort();
}

/* ---- nodes ---- */

static struct node *
node_of(const struct power *p, uint64_t ino)
{
	struct node *d = p->by_ino[ino % BUCKETS];

	while (d != NULL && d->ino != ino)
		d = d->same_bucket;
	return d;
}

/* The newest of a number is found first. */
static void
bind(struct power *p, struct node *d)
{
	d->same_bucket = p->by_ino[d->ino % BUCKETS];
	p->by_ino[d->ino % BUCKETS] = d;
}

static struct node *
node_new(struct power *p, uint64_t ino, uint32_t mode, uint32_t uid, uint32_t gid)
{
	struct node *d = made(sizeof(*d));

	d->ino = ino;
	d->mode = mode;
	d->uid = uid;
	d->gid = gid;
	d->ops_end = &d->ops;
	d->next = p->all;
	p->all = d;
	bind(p, d);
	return d;
}

static void
drop_ops(struct node *d)
{
	for (struct bytes_op *o = d->ops, *next; o != NULL; o = next) {
		next = o->next;
		free(o);
	}
	d->ops = NULL;
	d->ops_end = &d->ops;
}

static struct entry **
entry_at(struct node *dir, const char *name)
{
	struct entry **at = &dir->entries;

	while (*at != NULL && strcmp((*at)->name, name) != 0)
		at = &(*at)->next;
	return at;
}

static void
entry_set(struct node *dir, const char *name, struct node *node)
{
	struct entry **at = entry_at(dir, name);

	if (*at == NULL)
		*at = made(sizeof(**at));
	snprintf((*at)->name, sizeof((*at)->name), "%s", name);
	(*at)->node = node;
}

static struct node *
entry_take(struct node *dir, const char *name)
{
	struct entry **at = entry_at(dir, name), *e = *at;
	struct node *node = e != NULL ? e->node : NULL;

	if (e != NULL)
		*at = e->next;
	free(e);
	return node;
}

/* ---- what reaches the disk ---- */

static void
set_mtime(struct node *d, uint64_t mtime, uint64_t when)
{
	if (when < d->timed)
		return;
	d->mtime = mtime;
	d->timed = when;
}

static void
keep_name(const struct names_op *o)
{
	struct node *a, *b;

	switch (o->kind) {
	case POWER_CREATE:
	case POWER_LINK:
		if (o->dir != NULL)
			entry_set(o->dir, o->name, o->node);
		break;
	case POWER_UNLINK:
		entry_take(o->dir, o->name);
		break;
	case POWER_RENAME:
		a = entry_take(o->dir, o->name);
		b = o->at != 0 ? entry_take(o->dir2, o->name2) : NULL;
		must(a != NULL, "a rename of nothing");
		entry_set(o->dir2, o->name2, a);
		if (b != NULL)
			entry_set(o->dir, o->name, b);
		break;
	default:
		o->node->mode = o->mode;
		o->node->uid = o->uid;
		o->node->gid = o->gid;
		set_mtime(o->node, o->at, o->time);
		break;
	}
}

/* The first n of the list; the rest is forgotten if all is set. */
static void
keep_names(struct power *p, uint64_t n, bool all)
{
	while (p->names != NULL && (n > 0 || all)) {
		struct names_op *o = p->names;
		if (n > 0)
			keep_name(o);
		n -= n > 0;
		p->names = o->next;
		free(o);
	}
	if (p->names == NULL)
		p->names_end = &p->names;
}

static void
resize(struct node *d, uint64_t n)
{
	d->bytes = realloc(d->bytes, n > 0 ? n : 1);
	must(d->bytes != NULL, "memory");
	if (n > d->n)
		memset(d->bytes + d->n, 0, n - d->n);
	d->n = n;
}

static void
keep_bytes(struct node *d)
{
	for (const struct bytes_op *o = d->ops; o != NULL; o = o->next) {
		if (o->size) {
			resize(d, o->at);
		} else {
			if (o->at + o->n > d->n)
				resize(d, o->at + o->n);
			memcpy(d->bytes + o->at, o->data, o->n);
		}
		set_mtime(d, o->time, o->time);
	}
	drop_ops(d);
}

/* One unit of buf, which holds the file as it was synced, as after the first `upto` changes. */
static void
keep_unit(const struct node *d, uint8_t *buf, uint64_t from, uint64_t to, uint64_t upto)
{
	for (const struct bytes_op *o = d->ops; o != NULL && upto > 0;
		o = o->next, upto--) {
		uint64_t a = o->at > from ? o->at : from;
		uint64_t b = o->at + o->n < to ? o->at + o->n : to;
		if (o->size && a < to)
			memset(buf + a, 0, to - a);
		else if (!o->size && a < b)
			memcpy(buf + a, o->data + (a - o->at), b - a);
	}
}

static void
tear_bytes(struct power *p, struct node *d, uint64_t (*draw)(void))
{
	uint64_t m = 0, most = d->n, size = d->n, i = 0;
	bool lost = false;

	for (const struct bytes_op *o = d->ops; o != NULL; o = o->next, m++)
		if (o->at + o->n > most)
			most = o->at + o->n;
	uint64_t sized = draw() % (m + 1);
	for (const struct bytes_op *o = d->ops; o != NULL && i < sized;
		o = o->next, i++) {
		size = o->size ? o->at : size > o->at + o->n ? size : o->at + o->n;
		set_mtime(d, o->time, o->time);
	}
	uint8_t *buf = made(most);
	if (d->n > 0)
		memcpy(buf, d->bytes, d->n);
	for (uint64_t at = 0; at < most; at += UNIT) {
		uint64_t upto = draw() % (m + 1);
		lost |= upto < m;
		keep_unit(d, buf, at, at + UNIT < most ? at + UNIT : most, upto);
	}
	free(d->bytes);
	d->bytes = buf;
	d->n = most;
	resize(d, size);
	p->facts.lost_writes += lost || sized < m;
	drop_ops(d);
}

/* ---- the log ---- */

static void
note_name(
	struct power *p, const struct power_op *op, const char *name, const char *data)
{
	struct names_op *o = made(sizeof(*o));

	*o = (struct names_op){ .kind = op->kind,
		.mode = op->mode,
		.uid = op->uid,
		.gid = op->gid,
		.at = op->at,
		.time = op->time };
	snprintf(o->name, sizeof(o->name), "%s", name);
	if (op->kind == POWER_CREATE) {
		o->node = node_new(p, op->ino, op->mode, op->uid, op->gid);
		o->node->mtime = op->time;
		if (S_ISLNK(op->mode)) {
			resize(o->node, op->data_n);
			memcpy(o->node->bytes, data, op->data_n);
		}
	} else if (op->kind == POWER_RENAME) {
		must((o->dir2 = node_of(p, op->dir2)) != NULL, "an unknown folder");
		snprintf(o->name2, sizeof(o->name2), "%s", data);
	} else if (op->ino != 0) {
		o->node = node_of(p, op->ino);
	}
	if (op->dir != 0)
		must((o->dir = node_of(p, op->dir)) != NULL, "an unknown folder");
	must(o->node != NULL || op->ino == 0, "an unknown file");
	*p->names_end = o;
	p->names_end = &o->next;
}

static void
note_bytes(struct power *p, const struct power_op *op, const char *data)
{
	struct node *d = node_of(p, op->ino);

	if (d == NULL)
		return; /* of a file that had no name when the recording began */
	struct bytes_op *o = made(sizeof(*o) + op->data_n);
	o->size = op->kind == POWER_SIZE;
	o->at = op->at;
	o->n = op->data_n;
	o->time = op->time;
	memcpy(o->data, data, op->data_n);
	*d->ops_end = o;
	d->ops_end = &o->next;
	p->facts.writes++;
}

static void
note(struct power *p, const struct power_op *op, const char *name, const char *data)
{
	struct node *d;

	p->facts.ops++;
	switch (op->kind) {
	case POWER_WRITE:
	case POWER_SIZE:
		note_bytes(p, op, data);
		break;
	case POWER_SYNC:
		p->facts.syncs++;
		keep_names(p, UINT64_MAX, false);
		for (d = p->all; op->ino == 0 && d != NULL; d = d->next)
			keep_bytes(d);
		if (op->ino != 0 && (d = node_of(p, op->ino)) != NULL)
			keep_bytes(d);
		break;
	default:
		note_name(p, op, name, data);
		break;
	}
}

static void
read_log(struct power *p)
{
	FILE *f = fopen(p->log, "r");
	struct power_op op;

	if (f == NULL)
		return;
	must(fseeko(f, p->read_upto, SEEK_SET) == 0, "log");
	while (fread(&op, sizeof(op), 1, f) == 1) {
		must(op.magic == POWER_MAGIC, "the log is damaged");
		char *rest = made(op.name_n + op.data_n + 2);
		char *name = rest, *data = rest + op.name_n + 1;
		/* The last line may be torn, by the signal that ended its writer. */
		if ((op.name_n > 0 && fread(name, op.name_n, 1, f) != 1) ||
			(op.data_n > 0 && fread(data, op.data_n, 1, f) != 1)) {
			free(rest);
			break;
		}
		note(p, &op, name, data);
		free(rest);
		p->read_upto = ftello(f);
	}
	fclose(f);
}

/* ---- the folder ---- */

static void
load(struct power *p, struct node *dir, const char *path)
{
	DIR *d = opendir(path);
	struct dirent *e;
	struct stat st;
	char sub[4096];

	must(d != NULL, path);
	while ((e = readdir(d)) != NULL) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		snprintf(sub, sizeof(sub), "%s/%s", path, e->d_name);
		must(lstat(sub, &st) == 0, sub);
		struct node *node = node_of(p, st.st_ino);
		if (node == NULL) {
			node = node_new(p, st.st_ino, st.st_mode, st.st_uid, st.st_gid);
			node->mtime = (uint64_t)st.st_mtim.tv_sec * 1000000000u +
				      (uint64_t)st.st_mtim.tv_nsec;
			resize(node, S_ISDIR(st.st_mode) ? 0 : (uint64_t)st.st_size);
		}
		entry_set(dir, e->d_name, node);
		if (S_ISDIR(st.st_mode)) {
			load(p, node, sub);
		} else if (S_ISLNK(st.st_mode)) {
			must(readlink(sub, (char *)node->bytes, node->n) >= 0, sub);
		} else {
			int fd = open(sub, O_RDONLY | O_CLOEXEC);
			must(fd >= 0 && read(fd, node->bytes, node->n) ==
						(ssize_t)node->n,
				sub);
			close(fd);
		}
	}
	closedir(d);
}

/* The file that has this number still, so that it keeps it. */
static struct {
	uint64_t ino;
	char path[4096];
} wanted;

static int
is_wanted(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)kind, (void)ftw;
	if (!S_ISREG(st->st_mode) || st->st_ino != wanted.ino)
		return 0;
	snprintf(wanted.path, sizeof(wanted.path), "%s", path);
	return 1;
}

static void
place_file(struct node *d, const char *path, const char *was)
{
	int fd;

	if (d->placed != NULL) {
		must(link(d->placed, path) == 0, path);
		return;
	}
	wanted.ino = d->ino;
	if (nftw(was, is_wanted, 16, FTW_PHYS) == 1)
		must(link(wanted.path, path) == 0, path);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	must(fd >= 0 && write(fd, d->bytes, d->n) == (ssize_t)d->n, path);
	close(fd);
	d->placed = strdup(path);
}

static void
place(struct node *dir, const char *path, const char *was)
{
	char sub[4096];
	struct stat st;

	for (struct entry *e = dir->entries; e != NULL; e = e->next) {
		struct node *d = e->node;
		struct timespec t[2] = { { 0, UTIME_OMIT },
			{ (time_t)(d->mtime / 1000000000u),
				(long)(d->mtime % 1000000000u) } };
		snprintf(sub, sizeof(sub), "%s/%s", path, e->name);
		if (S_ISDIR(d->mode)) {
			must(mkdir(sub, 0700) == 0, sub);
			place(d, sub, was);
		} else if (S_ISLNK(d->mode)) {
			resize(d, d->n + 1);
			must(symlink((char *)d->bytes, sub) == 0, sub);
			d->n--;
		} else {
			place_file(d, sub, was);
		}
		must(lchown(sub, d->uid, d->gid) == 0, sub);
		if (!S_ISLNK(d->mode))
			must(chmod(sub, d->mode & 07777) == 0, sub);
		must(utimensat(AT_FDCWD, sub, t, AT_SYMLINK_NOFOLLOW) == 0 &&
				lstat(sub, &st) == 0,
			sub);
		d->ino = st.st_ino;
	}
}

static int
remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)st, (void)kind, (void)ftw;
	return remove(path);
}

static void
node_free(struct node *d)
{
	while (d->entries != NULL) {
		struct entry *e = d->entries;
		d->entries = e->next;
		free(e);
	}
	drop_ops(d);
	free(d->bytes);
	free(d->placed);
	free(d);
}

/* Nodes that no name leads to are gone; the others have their numbers of now. */
static void
mark(struct node *d, struct node **kept)
{
	for (struct node *k = *kept; k != NULL; k = k->next)
		if (k == d)
			return;
	d->next = *kept;
	*kept = d;
	for (struct entry *e = d->entries; e != NULL; e = e->next)
		mark(e->node, kept);
}

static void
forget_rest(struct power *p)
{
	struct node *kept = NULL, **all = NULL;
	size_t n = 0;

	for (struct node *d = p->all; d != NULL; d = d->next)
		n++;
	all = made(n * sizeof(*all));
	n = 0;
	for (struct node *d = p->all; d != NULL; d = d->next)
		all[n++] = d;
	mark(p->top, &kept);
	memset(p->by_ino, 0, sizeof(p->by_ino));
	for (size_t i = 0; i < n; i++) {
		bool found = false;
		for (struct node *k = kept; k != NULL && !found; k = k->next)
			found = k == all[i];
		if (!found)
			node_free(all[i]);
	}
	p->all = kept;
	for (struct node *d = kept; d != NULL; d = d->next) {
		free(d->placed);
		d->placed = NULL;
		bind(p, d);
	}
	free(all);
}

static void
make_anew(struct power *p)
{
	char was[310];
	struct stat st;

	snprintf(was, sizeof(was), "%s.was", p->root);
	must(rename(p->root, was) == 0 && mkdir(p->root, 0700) == 0, p->root);
	place(p->top, p->root, was);
	must(stat(was, &st) == 0 && chmod(p->root, st.st_mode & 07777) == 0 &&
			chown(p->root, st.st_uid, st.st_gid) == 0 &&
			nftw(was, remove_one, 16, FTW_DEPTH | FTW_PHYS) == 0 &&
			stat(p->root, &st) == 0,
		p->root);
	p->top->ino = st.st_ino;
	forget_rest(p);
}

/* ---- from outside ---- */

struct power *
power_open(const char *root, const char *log)
{
	struct power *p = made(sizeof(*p));
	struct stat st;

	snprintf(p->root, sizeof(p->root), "%s", root);
	snprintf(p->log, sizeof(p->log), "%s", log);
	p->names_end = &p->names;
	must(stat(root, &st) == 0, root);
	p->top = node_new(p, st.st_ino, st.st_mode, st.st_uid, st.st_gid);
	load(p, p->top, root);
	return p;
}

void
power_cut(struct power *p, enum power_loss loss, uint64_t (*draw)(void),
	struct power_facts *out)
{
	uint64_t names = 0, keep;

	p->facts.lost_names = p->facts.lost_writes = 0;
	read_log(p);
	for (struct names_op *o = p->names; o != NULL; o = o->next)
		names++;
	keep = loss == POWER_KEEP_ALL   ? names
	       : loss == POWER_DROP_ALL ? 0
					: draw() % (names + 1);
	p->facts.lost_names = (unsigned)(names - keep);
	keep_names(p, keep, true);
	for (struct node *d = p->all; d != NULL; d = d->next) {
		if (d->ops == NULL)
			continue;
		uint64_t how = loss == POWER_ANY ? draw() % 4 : loss;
		if (how == POWER_KEEP_ALL) {
			keep_bytes(d);
		} else if (how == POWER_DROP_ALL) {
			p->facts.lost_writes++;
			drop_ops(d);
		} else {
			tear_bytes(p, d, draw);
		}
	}
	make_anew(p);
	must(truncate(p->log, 0) == 0 || errno == ENOENT, p->log);
	p->read_upto = 0;
	if (out != NULL)
		*out = p->facts;
}

void
power_close(struct power *p)
{
	if (p == NULL)
		return;
	keep_names(p, 0, true);
	for (struct node *d = p->all, *next; d != NULL; d = next) {
		next = d->next;
		node_free(d);
	}
	free(p);
}
