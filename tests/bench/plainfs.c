/*
 * plainfs.c - a plain pass-through FUSE filesystem: what twinspool is measured against.
 *
 *	plainfs SOURCE MOUNTPOINT
 *
 * It does what somebody would write first: every request of the kernel is one call on the backing
 * tree, an inode is an open O_PATH descriptor (or a handle, where there are very many), timeouts
 * and threads are those that libfuse gives, nothing is kept, avoided or deferred, and nothing is
 * replicated. Extended attributes are left out, as they are in a mount with `xattr: no`. In the
 * foreground until it is unmounted.
 *
 * Files are made under the caller's ids; the kernel checks permissions (default_permissions).
 */
#define FUSE_USE_VERSION 314

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define BUCKETS 65536
#define TIMEOUT 1.0
#define FDS_MAX 8192 /* regular files beyond these are known by their handles */

struct node {
	struct node *next;
	int fd; /* -1: handle */
	struct file_handle *handle;
	dev_t dev;
	ino_t ino;
	uint64_t lookups; /* the table's lock */
};

static struct node root = { .fd = -1, .lookups = 1 };
static int root_real = -1; /* no O_PATH: what open_by_handle_at wants */
static struct node *table[BUCKETS];
static unsigned n_fds; /* the table's lock */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct node *
node_of(fuse_ino_t id)
{
	return id == FUSE_ROOT_ID ? &root : (struct node *)(uintptr_t)id;
}

/* Valid until this thread asks for another node: a request has one that is no folder. */
static int
fd_of(fuse_ino_t id)
{
	static _Thread_local int spare = -1;
	static _Thread_local struct node *whose;
	static _Thread_local ino_t which;
	struct node *n = node_of(id);

	if (n->fd >= 0)
		return n->fd;
	if (spare < 0 || whose != n || which != n->ino) {
		if (spare >= 0)
			close(spare);
		spare = open_by_handle_at(root_real, n->handle, O_PATH | O_CLOEXEC);
		whose = n;
		which = n->ino;
	}
	return spare;
}

struct path {
	char text[40];
};

static struct path
path_of(fuse_ino_t id)
{
	struct path p;

	snprintf(p.text, sizeof(p.text), "/proc/self/fd/%d", fd_of(id));
	return p;
}

static struct node **
bucket(ino_t ino)
{
	return &table[ino % BUCKETS];
}

/* Table locked. Takes the descriptor, or puts a handle in its place. */
static void
node_hold(struct node *n, int fd, mode_t mode)
{
	struct file_handle *h = NULL;
	int mount;

	n->fd = fd;
	if (n_fds++ < FDS_MAX || !S_ISREG(mode))
		return;
	h = malloc(sizeof(*h) + MAX_HANDLE_SZ);
	if (h == NULL)
		return;
	h->handle_bytes = MAX_HANDLE_SZ;
	if (name_to_handle_at(fd, "", h, &mount, AT_EMPTY_PATH) != 0) {
		free(h);
		return;
	}
	n->handle = h;
	n->fd = -1;
	n_fds--;
	close(fd);
}

/* The node of an open O_PATH descriptor, which it takes; one lookup more. */
static struct node *
node_get(int fd, const struct stat *st)
{
	struct node *n;

	pthread_mutex_lock(&lock);
	for (n = *bucket(st->st_ino); n != NULL; n = n->next)
		if (n->ino == st->st_ino && n->dev == st->st_dev)
			break;
	if (n != NULL) {
		close(fd);
	} else if ((n = calloc(1, sizeof(*n))) != NULL) {
		node_hold(n, fd, st->st_mode);
		n->ino = st->st_ino;
		n->dev = st->st_dev;
		n->next = *bucket(st->st_ino);
		*bucket(st->st_ino) = n;
	} else {
		close(fd);
	}
	if (n != NULL)
		n->lookups++;
	pthread_mutex_unlock(&lock);
	return n;
}

static void
node_put(fuse_ino_t id, uint64_t count)
{
	struct node *n = node_of(id), **at;

	if (n == &root)
		return;
	pthread_mutex_lock(&lock);
	n->lookups -= count;
	if (n->lookups == 0) {
		for (at = bucket(n->ino); *at != n; at = &(*at)->next)
			;
		*at = n->next;
		if (n->fd >= 0) {
			close(n->fd);
			n_fds--;
		}
		free(n->handle);
		free(n);
	}
	pthread_mutex_unlock(&lock);
}

/* 0 or an errno. */
static int
find(fuse_ino_t parent, const char *name, struct fuse_entry_param *e)
{
	struct node *n;
	int fd;

	memset(e, 0, sizeof(*e));
	e->attr_timeout = e->entry_timeout = TIMEOUT;
	fd = openat(fd_of(parent), name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno;
	if (fstatat(fd, "", &e->attr, AT_EMPTY_PATH) != 0) {
		int err = errno;
		close(fd);
		return err;
	}
	n = node_get(fd, &e->attr);
	if (n == NULL)
		return ENOMEM;
	e->ino = (uintptr_t)n;
	return 0;
}

static void
reply_entry(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e;
	int err = find(parent, name, &e);

	if (err != 0)
		fuse_reply_err(req, err);
	else
		fuse_reply_entry(req, &e);
}

static void
do_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	reply_entry(req, parent, name);
}

static void
do_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
	node_put(ino, count);
	fuse_reply_none(req);
}

static void
do_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *what)
{
	for (size_t i = 0; i < count; i++)
		node_put(what[i].ino, what[i].nlookup);
	fuse_reply_none(req);
}

static void
do_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;

	(void)fi;
	if (fstatat(fd_of(ino), "", &st, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_attr(req, &st, TIMEOUT);
}

static int
set_one(fuse_ino_t ino, const struct stat *to, int what)
{
	struct path p = path_of(ino);
	struct timespec t[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_nsec = UTIME_OMIT } };

	if ((what & FUSE_SET_ATTR_MODE) && chmod(p.text, to->st_mode) != 0)
		return errno;
	if (what & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) {
		uid_t uid = what & FUSE_SET_ATTR_UID ? to->st_uid : (uid_t)-1;
		gid_t gid = what & FUSE_SET_ATTR_GID ? to->st_gid : (gid_t)-1;

		if (fchownat(fd_of(ino), "", uid, gid,
			    AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) != 0)
			return errno;
	}
	if ((what & FUSE_SET_ATTR_SIZE) && truncate(p.text, to->st_size) != 0)
		return errno;
	if (what & FUSE_SET_ATTR_ATIME_NOW)
		t[0].tv_nsec = UTIME_NOW;
	else if (what & FUSE_SET_ATTR_ATIME)
		t[0] = to->st_atim;
	if (what & FUSE_SET_ATTR_MTIME_NOW)
		t[1].tv_nsec = UTIME_NOW;
	else if (what & FUSE_SET_ATTR_MTIME)
		t[1] = to->st_mtim;
	if ((t[0].tv_nsec != UTIME_OMIT || t[1].tv_nsec != UTIME_OMIT) &&
		utimensat(AT_FDCWD, p.text, t, 0) != 0)
		return errno;
	return 0;
}

static void
do_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *to, int what,
	struct fuse_file_info *fi)
{
	int err = set_one(ino, to, what);

	if (err != 0)
		fuse_reply_err(req, err);
	else
		do_getattr(req, ino, fi);
}

static void
do_readlink(fuse_req_t req, fuse_ino_t ino)
{
	char text[4097];
	ssize_t n = readlinkat(fd_of(ino), "", text, sizeof(text) - 1);

	if (n < 0) {
		fuse_reply_err(req, errno);
		return;
	}
	text[n] = '\0';
	fuse_reply_readlink(req, text);
}

/* What is made belongs to the caller. */
static void
as_caller(fuse_req_t req)
{
	const struct fuse_ctx *c = fuse_req_ctx(req);

	setfsgid(c->gid);
	setfsuid(c->uid);
}

static void
as_root(void)
{
	setfsuid(0);
	setfsgid(0);
}

static void
made(fuse_req_t req, fuse_ino_t parent, const char *name, int rc, int err)
{
	as_root();
	if (rc != 0)
		fuse_reply_err(req, err);
	else
		reply_entry(req, parent, name);
}

static void
do_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t dev)
{
	as_caller(req);
	int rc = mknodat(fd_of(parent), name, mode, dev);
	made(req, parent, name, rc, errno);
}

static void
do_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	as_caller(req);
	int rc = mkdirat(fd_of(parent), name, mode);
	made(req, parent, name, rc, errno);
}

static void
do_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	as_caller(req);
	int rc = symlinkat(target, fd_of(parent), name);
	made(req, parent, name, rc, errno);
}

static void
do_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	struct path p = path_of(ino);
	int rc = linkat(AT_FDCWD, p.text, fd_of(parent), name, AT_SYMLINK_FOLLOW);

	made(req, parent, name, rc, errno);
}

static void
do_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	fuse_reply_err(req, unlinkat(fd_of(parent), name, 0) != 0 ? errno : 0);
}

static void
do_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	int rc = unlinkat(fd_of(parent), name, AT_REMOVEDIR);

	fuse_reply_err(req, rc != 0 ? errno : 0);
}

static void
do_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent,
	const char *newname, unsigned flags)
{
	int rc = renameat2(fd_of(parent), name, fd_of(newparent), newname, flags);

	fuse_reply_err(req, rc != 0 ? errno : 0);
}

static void
do_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
	struct fuse_file_info *fi)
{
	struct fuse_entry_param e;
	int fd, err;

	as_caller(req);
	fd = openat(fd_of(parent), name, (fi->flags | O_CREAT) & ~O_NOFOLLOW, mode);
	err = errno;
	as_root();
	if (fd >= 0 && (err = find(parent, name, &e)) != 0)
		close(fd);
	if (fd < 0 || err != 0) {
		fuse_reply_err(req, err);
		return;
	}
	fi->fh = (uint64_t)fd;
	fuse_reply_create(req, &e, fi);
}

static void
do_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct path p = path_of(ino);
	int fd = open(p.text, fi->flags & ~O_NOFOLLOW);

	if (fd < 0) {
		fuse_reply_err(req, errno);
		return;
	}
	fi->fh = (uint64_t)fd;
	fuse_reply_open(req, fi);
}

static void
do_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t at,
	struct fuse_file_info *fi)
{
	struct fuse_bufvec buf = FUSE_BUFVEC_INIT(size);

	(void)ino;
	buf.buf[0].flags = FUSE_BUF_IS_FD | FUSE_BUF_FD_SEEK;
	buf.buf[0].fd = (int)fi->fh;
	buf.buf[0].pos = at;
	fuse_reply_data(req, &buf, FUSE_BUF_SPLICE_MOVE);
}

static void
do_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t at,
	struct fuse_file_info *fi)
{
	ssize_t n = pwrite((int)fi->fh, data, size, at);

	(void)ino;
	if (n < 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_write(req, (size_t)n);
}

static void
do_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	fuse_reply_err(req, close(dup((int)fi->fh)) != 0 ? errno : 0);
}

static void
do_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	close((int)fi->fh);
	fuse_reply_err(req, 0);
}

static void
do_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	int rc = datasync ? fdatasync((int)fi->fh) : fsync((int)fi->fh);

	(void)ino;
	fuse_reply_err(req, rc != 0 ? errno : 0);
}

static void
do_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t at, off_t len,
	struct fuse_file_info *fi)
{
	(void)ino;
	fuse_reply_err(req, fallocate((int)fi->fh, mode, at, len) != 0 ? errno : 0);
}

static void
do_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	int fd = openat(fd_of(ino), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	if (d == NULL) {
		fuse_reply_err(req, errno);
		return;
	}
	fi->fh = (uintptr_t)d;
	fuse_reply_open(req, fi);
}

static size_t
add_entry(fuse_req_t req, fuse_ino_t ino, const struct dirent *d, bool plus, char *at,
	size_t left)
{
	struct fuse_entry_param e = { .attr = { .st_ino = d->d_ino,
					      .st_mode = (mode_t)d->d_type << 12 } };
	bool dots = strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0;
	size_t n;

	if (!plus)
		return fuse_add_direntry(req, at, left, d->d_name, &e.attr, d->d_off);
	if (!dots && find(ino, d->d_name, &e) != 0)
		return 0;
	n = fuse_add_direntry_plus(req, at, left, d->d_name, &e, d->d_off);
	if (n > left && !dots)
		node_put(e.ino, 1);
	return n;
}

static void
list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t at, struct fuse_file_info *fi,
	bool plus)
{
	DIR *dir = (DIR *)(uintptr_t)fi->fh;
	char *text = malloc(size);
	size_t used = 0;
	struct dirent *d;

	if (text == NULL) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	/* One reader of a folder at a time comes from the kernel. */
	if (telldir(dir) != at)
		seekdir(dir, at);
	for (long was = telldir(dir); (d = readdir(dir)) != NULL; was = telldir(dir)) {
		size_t n = add_entry(req, ino, d, plus, text + used, size - used);

		if (n > size - used) {
			seekdir(dir, was);
			break;
		}
		used += n;
	}
	fuse_reply_buf(req, text, used);
	free(text);
}

static void
do_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t at,
	struct fuse_file_info *fi)
{
	list(req, ino, size, at, fi, false);
}

static void
do_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t at,
	struct fuse_file_info *fi)
{
	list(req, ino, size, at, fi, true);
}

static void
do_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	closedir((DIR *)(uintptr_t)fi->fh);
	fuse_reply_err(req, 0);
}

static void
do_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	int fd = dirfd((DIR *)(uintptr_t)fi->fh);

	(void)ino;
	fuse_reply_err(req, (datasync ? fdatasync(fd) : fsync(fd)) != 0 ? errno : 0);
}

static void
do_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct statvfs s;

	if (fstatvfs(fd_of(ino), &s) != 0)
		fuse_reply_err(req, errno);
	else
		fuse_reply_statfs(req, &s);
}

static const struct fuse_lowlevel_ops ops = {
	.lookup = do_lookup,
	.forget = do_forget,
	.forget_multi = do_forget_multi,
	.getattr = do_getattr,
	.setattr = do_setattr,
	.readlink = do_readlink,
	.mknod = do_mknod,
	.mkdir = do_mkdir,
	.unlink = do_unlink,
	.rmdir = do_rmdir,
	.symlink = do_symlink,
	.rename = do_rename,
	.link = do_link,
	.create = do_create,
	.open = do_open,
	.read = do_read,
	.write = do_write,
	.flush = do_flush,
	.release = do_release,
	.fsync = do_fsync,
	.fallocate = do_fallocate,
	.opendir = do_opendir,
	.readdir = do_readdir,
	.readdirplus = do_readdirplus,
	.releasedir = do_releasedir,
	.fsyncdir = do_fsyncdir,
	.statfs = do_statfs,
};

int
main(int argc, char **argv)
{
	char options[] =
		"-oallow_other,default_permissions,fsname=plainfs,subtype=plainfs";
	char *words[] = { argv[0], options, NULL };
	struct fuse_args args = FUSE_ARGS_INIT(2, words);
	struct fuse_loop_config *config = fuse_loop_cfg_create();
	struct fuse_session *se;
	int rc;

	if (argc != 3) {
		fprintf(stderr, "usage: plainfs SOURCE MOUNTPOINT\n");
		return 2;
	}
	umask(0);
	root.fd = open(argv[1], O_PATH | O_DIRECTORY | O_CLOEXEC);
	root_real = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root.fd < 0 || root_real < 0) {
		perror(argv[1]);
		return 1;
	}
	se = fuse_session_new(&args, &ops, sizeof(ops), NULL);
	if (se == NULL || fuse_set_signal_handlers(se) != 0 ||
		fuse_session_mount(se, argv[2]) != 0)
		return 1;
	rc = fuse_session_loop_mt(se, config);
	fuse_session_unmount(se);
	fuse_session_destroy(se);
	fuse_loop_cfg_destroy(config);
	return rc != 0;
}
