/*
 * vdir.c - nodes of the hidden folder.
 *
 * Two folders have fixed numbers: .twinspool and mailboxes. Everything else is a node in a hash
 * by number: a file with its bytes, or the folder of one mailbox with its id. A node lives while
 * the kernel counts lookups on it or somebody holds its bytes. A mailbox's folder is found again
 * by its id, so that a shell standing in it stays there; a file is made anew each time.
 *
 * Contents are made outside the lock: a fill function may take locks of its own.
 */
#include "fs/vdir.h"

#include "fs/stats.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAILBOXES (VDIR_BIT | 2)
#define FIRST 16 /* number of a server's first node of its own */
#define BIRTH_SHIFT 40
#define BIRTH_MASK 0x7fffff
#define BUCKETS 4096
#define ID_MAX 255

struct file {
	const char *name;
	vdir_fill_fn *fill;
	void *arg;
};

struct node {
	struct node *next;
	struct node *next_id; /* a folder: in the hash by id */
	uint64_t nodeid;
	uint64_t ino; /* st_ino: of the path, the same for all nodes of a file */
	uint64_t nlookup;
	unsigned holds;
	struct timespec made;
	struct buf data; /* of a file */
	char id[]; /* of a mailbox's folder, else "" */
};

static struct {
	pthread_mutex_t lock;
	struct file top[VDIR_FILES_MAX], box[VDIR_FILES_MAX];
	unsigned ntop, nbox;
	struct vdir_mailboxes mailboxes;
	uid_t uid;
	gid_t gid;
	uint64_t next; /* number of the next node */
	struct node *hash[BUCKETS], *by_id[BUCKETS];
	unsigned nodes;
	size_t bytes;
	struct timespec started;
} vd = { .lock = PTHREAD_MUTEX_INITIALIZER };

void
vdir_start(unsigned births, uid_t uid, gid_t gid)
{
	vd.uid = uid;
	vd.gid = gid;
	vd.next = VDIR_BIT | (uint64_t)(births & BIRTH_MASK) << BIRTH_SHIFT | FIRST;
	clock_gettime(CLOCK_REALTIME, &vd.started);
}

static void
node_free(struct node *n)
{
	buf_fini(&n->data);
	free(n);
}

void
vdir_stop(void)
{
	pthread_mutex_lock(&vd.lock);
	for (unsigned i = 0; i < BUCKETS; i++)
		while (vd.hash[i] != NULL) {
			struct node *n = vd.hash[i];
			vd.hash[i] = n->next;
			node_free(n);
		}
	memset(vd.by_id, 0, sizeof(vd.by_id));
	vd.nodes = 0;
	vd.bytes = 0;
	vd.ntop = vd.nbox = 0;
	vd.mailboxes = (struct vdir_mailboxes){ 0 };
	pthread_mutex_unlock(&vd.lock);
}

static int
add(struct file *files, unsigned *n, const char *name, vdir_fill_fn *fill, void *arg)
{
	if (*n == VDIR_FILES_MAX)
		return EINVAL;
	files[(*n)++] = (struct file){ name, fill, arg };
	return 0;
}

int
vdir_add(const char *name, vdir_fill_fn *fill, void *arg)
{
	return add(vd.top, &vd.ntop, name, fill, arg);
}

int
vdir_add_mailbox(const char *name, vdir_fill_fn *fill, void *arg)
{
	return add(vd.box, &vd.nbox, name, fill, arg);
}

void
vdir_set_mailboxes(const struct vdir_mailboxes *mailboxes)
{
	vd.mailboxes = *mailboxes;
}

unsigned
vdir_nodes(void)
{
	pthread_mutex_lock(&vd.lock);
	unsigned n = vd.nodes;
	pthread_mutex_unlock(&vd.lock);
	return n;
}

/* ---- nodes; the lock is held ---- */

static struct node **
node_slot(uint64_t nodeid)
{
	struct node **at = &vd.hash[nodeid % BUCKETS];

	while (*at != NULL && (*at)->nodeid != nodeid)
		at = &(*at)->next;
	return at;
}

/* Where the folder of that id is linked in, or would be. */
static struct node **
id_slot(const char *id)
{
	uint32_t h = 2166136261u;

	for (const char *p = id; *p != '\0'; p++)
		h = (h ^ (uint8_t)*p) * 16777619u;
	struct node **at = &vd.by_id[h % BUCKETS];
	while (*at != NULL && strcmp((*at)->id, id) != 0)
		at = &(*at)->next_id;
	return at;
}

static size_t
node_size(const struct node *n)
{
	return sizeof(*n) + strlen(n->id) + 1 + n->data.len;
}

/* Takes a new node in, with one lookup counted; its number. 0 when there is no room. */
static uint64_t
node_enter(struct node *n)
{
	if (node_size(n) > VDIR_BYTES_MAX - vd.bytes)
		return 0;
	n->nodeid = vd.next++;
	n->nlookup = 1;
	n->next = vd.hash[n->nodeid % BUCKETS];
	vd.hash[n->nodeid % BUCKETS] = n;
	if (n->id[0] != '\0')
		*id_slot(n->id) = n;
	vd.nodes++;
	vd.bytes += node_size(n);
	return n->nodeid;
}

static void
node_leave_if_unused(struct node **at)
{
	struct node *n = *at;

	if (n->nlookup != 0 || n->holds != 0)
		return;
	*at = n->next;
	if (n->id[0] != '\0')
		*id_slot(n->id) = n->next_id;
	vd.nodes--;
	vd.bytes -= node_size(n);
	node_free(n);
}

/* ---- attributes ---- */

/* The number that programs see, of name in the folder of mailbox id or ("") in the top one. */
static uint64_t
ino_of(const char *id, const char *name)
{
	uint64_t h = 0xcbf29ce484222325ULL;

	for (const char *p = id; *p != '\0'; p++)
		h = (h ^ (uint8_t)*p) * 0x100000001b3ULL;
	h = (h ^ '/') * 0x100000001b3ULL;
	for (const char *p = name; *p != '\0'; p++)
		h = (h ^ (uint8_t)*p) * 0x100000001b3ULL;
	return VDIR_BIT | h;
}

static void
shape(struct stat *st, uint64_t ino, mode_t mode, struct timespec when)
{
	*st = (struct stat){ .st_ino = ino,
		.st_mode = mode,
		.st_nlink = S_ISDIR(mode) ? 2 : 1,
		.st_uid = vd.uid,
		.st_gid = vd.gid,
		.st_blksize = 4096,
		.st_atim = when,
		.st_mtim = when,
		.st_ctim = when };
}

static void
shape_node(struct stat *st, const struct node *n)
{
	if (n->id[0] != '\0') {
		shape(st, n->ino, S_IFDIR | 0700, n->made);
		return;
	}
	shape(st, n->ino, S_IFREG | 0400, n->made);
	st->st_size = (off_t)n->data.len;
	st->st_blocks = (st->st_size + 511) / 512;
}

int
vdir_stat(uint64_t nodeid, struct stat *st_out)
{
	struct timespec when = vd.started;
	int rc = 0;

	/* Mailboxes come and go: the kernel takes a listing for old when this time has moved. */
	if (nodeid == MAILBOXES)
		clock_gettime(CLOCK_REALTIME, &when);
	if (nodeid == VDIR_ROOT || nodeid == MAILBOXES) {
		shape(st_out, nodeid, S_IFDIR | 0700, when);
		return 0;
	}
	pthread_mutex_lock(&vd.lock);
	struct node *n = *node_slot(nodeid);
	if (n == NULL)
		rc = ESTALE;
	else
		shape_node(st_out, n);
	pthread_mutex_unlock(&vd.lock);
	return rc;
}

/* ---- lookups ---- */

/* Made, filled and entered: a file, or with file NULL the folder of the mailbox id. */
static int
enter_new(const struct file *file, const char *id, uint64_t *nodeid_out,
	struct stat *st_out)
{
	const char *own_id = file == NULL && id != NULL ? id : "";
	struct node *n = calloc(1, sizeof(*n) + strlen(own_id) + 1);
	int rc = 0;

	if (n == NULL)
		return ENOMEM;
	memcpy(n->id, own_id, strlen(own_id) + 1);
	buf_init(&n->data, VDIR_BYTES_MAX);
	clock_gettime(CLOCK_REALTIME, &n->made);
	n->ino = file == NULL ? ino_of(id, "")
			      : ino_of(id != NULL ? id : "", file->name);
	if (file != NULL) {
		rc = file->fill(file->arg, id, &n->data);
		if (rc == 0 && buf_ok(&n->data) != 0)
			rc = ENOMEM;
		if (rc != 0)
			goto out;
	}
	pthread_mutex_lock(&vd.lock);
	struct node *other = file == NULL ? *id_slot(id) : NULL;
	if (other != NULL) {
		other->nlookup++; /* somebody was faster */
		shape_node(st_out, other);
		*nodeid_out = other->nodeid;
	} else if (node_enter(n) == 0) {
		rc = ENFILE;
	} else {
		shape_node(st_out, n);
		*nodeid_out = n->nodeid;
		n = NULL; /* the table's from here */
	}
	pthread_mutex_unlock(&vd.lock);
out:
	if (n != NULL)
		node_free(n);
	return rc;
}

static const struct file *
find(const struct file *files, unsigned n, const char *name)
{
	for (unsigned i = 0; i < n; i++)
		if (strcmp(files[i].name, name) == 0)
			return &files[i];
	return NULL;
}

static int
lookup_mailbox(const char *id, uint64_t *nodeid_out, struct stat *st_out)
{
	if (strlen(id) > ID_MAX || id[0] == '\0' || vd.mailboxes.has == NULL ||
		!vd.mailboxes.has(vd.mailboxes.arg, id))
		return ENOENT;
	pthread_mutex_lock(&vd.lock);
	struct node *n = *id_slot(id);
	if (n != NULL) {
		n->nlookup++;
		shape_node(st_out, n);
		*nodeid_out = n->nodeid;
	}
	pthread_mutex_unlock(&vd.lock);
	return n != NULL ? 0 : enter_new(NULL, id, nodeid_out, st_out);
}

/* The id of a mailbox's folder. */
static int
id_of(uint64_t nodeid, char id[ID_MAX + 1])
{
	int rc = 0;

	pthread_mutex_lock(&vd.lock);
	struct node *n = *node_slot(nodeid);
	if (n == NULL)
		rc = ESTALE;
	else if (n->id[0] == '\0')
		rc = ENOTDIR;
	else
		memcpy(id, n->id, strlen(n->id) + 1);
	pthread_mutex_unlock(&vd.lock);
	return rc;
}

int
vdir_lookup(uint64_t dir, const char *name, uint64_t *nodeid_out, struct stat *st_out,
	bool *keep_out)
{
	const struct file *file;
	char id[ID_MAX + 1];

	stats_add(STATS_VIRTUAL, 1);
	*keep_out = false;
	if (dir == VDIR_ROOT && strcmp(name, "mailboxes") == 0) {
		*keep_out = true;
		*nodeid_out = MAILBOXES;
		return vdir_stat(MAILBOXES, st_out);
	}
	if (dir == VDIR_ROOT) {
		file = find(vd.top, vd.ntop, name);
		return file == NULL ? ENOENT
				    : enter_new(file, NULL, nodeid_out, st_out);
	}
	if (dir == MAILBOXES)
		return lookup_mailbox(name, nodeid_out, st_out);
	int rc = id_of(dir, id);
	if (rc != 0)
		return rc;
	file = find(vd.box, vd.nbox, name);
	return file == NULL ? ENOENT : enter_new(file, id, nodeid_out, st_out);
}

void
vdir_forget(uint64_t nodeid, uint64_t count)
{
	pthread_mutex_lock(&vd.lock);
	struct node **at = node_slot(nodeid);
	if (*at != NULL) {
		struct node *n = *at;
		n->nlookup -= count < n->nlookup ? count : n->nlookup;
		node_leave_if_unused(at);
	}
	pthread_mutex_unlock(&vd.lock);
}

int
vdir_get(uint64_t nodeid, const uint8_t **data_out, size_t *len_out)
{
	int rc = 0;

	pthread_mutex_lock(&vd.lock);
	struct node *n = *node_slot(nodeid);
	if (nodeid == VDIR_ROOT || nodeid == MAILBOXES ||
		(n != NULL && n->id[0] != '\0'))
		rc = EISDIR;
	else if (n == NULL)
		rc = ESTALE;
	else {
		n->holds++;
		*data_out = n->data.data;
		*len_out = n->data.len;
	}
	pthread_mutex_unlock(&vd.lock);
	return rc;
}

void
vdir_put(uint64_t nodeid)
{
	pthread_mutex_lock(&vd.lock);
	struct node **at = node_slot(nodeid);
	if (*at != NULL) {
		(*at)->holds--;
		node_leave_if_unused(at);
	}
	pthread_mutex_unlock(&vd.lock);
}

/* ---- lists ---- */

struct list {
	vdir_entry_fn *fn;
	void *arg;
	uint64_t at,
		from; /* number of the next entry, and of the first that is wanted */
	bool full;
};

static void
list_one(struct list *l, const char *name, mode_t mode, uint64_t ino)
{
	uint64_t number = l->at++;

	if (l->full || number < l->from)
		return;
	if (!l->fn(l->arg, name, mode, ino, number + 1))
		l->full = true;
}

static void
list_mailbox(void *arg, const char *id)
{
	list_one(arg, id, S_IFDIR, ino_of(id, ""));
}

int
vdir_list(uint64_t dir, uint64_t off, vdir_entry_fn *fn, void *arg)
{
	struct list l = { .fn = fn, .arg = arg, .from = off };
	const struct file *files = vd.top;
	unsigned nfiles = vd.ntop;
	char id[ID_MAX + 1] = "";
	int rc;

	if (dir != VDIR_ROOT && dir != MAILBOXES) {
		if ((rc = id_of(dir, id)) != 0)
			return rc;
		files = vd.box;
		nfiles = vd.nbox;
	}
	list_one(&l, ".", S_IFDIR, id[0] != '\0' ? ino_of(id, "") : dir);
	list_one(&l, "..", S_IFDIR,
		dir == VDIR_ROOT ? 1
		: id[0] != '\0'  ? MAILBOXES
				 : VDIR_ROOT);
	if (dir == MAILBOXES) {
		if (vd.mailboxes.each != NULL)
			vd.mailboxes.each(vd.mailboxes.arg, list_mailbox, &l);
		return 0;
	}
	for (unsigned i = 0; i < nfiles; i++)
		list_one(&l, files[i].name, S_IFREG, ino_of(id, files[i].name));
	if (dir == VDIR_ROOT)
		list_one(&l, "mailboxes", S_IFDIR, MAILBOXES);
	return 0;
}
