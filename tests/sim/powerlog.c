/*
 * The recorder. Each function here has a name of libc's, so that calls from the program and from
 * the libraries that it uses come here; the real one is the next of that name.
 *
 * A change and its line in the log are made under one lock, so the log has the order in which
 * things came to be. Files and folders are known by inode number: a path is asked for its folder's
 * number at once, a descriptor for its own. What lies outside the folder, and everything while
 * nothing is recorded, goes straight through.
 */
#undef _FILE_OFFSET_BITS
#include "tests/sim/power.h"
#include "tests/sim/power_own.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static struct {
	pthread_mutex_t lock;
	char root[300];
	size_t root_n;
	int log; /* 0: not recording */
} rec = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* The next function of the same name, as a pointer of its type. */
#define REAL(fn) ((__typeof__(&fn))real(#fn))

static void *
real(const char *name)
{
	/* Few names, and always the same: the table is filled once per name. */
	static struct {
		const char *name;
		void *fn;
	} known[64];
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	void *fn = NULL;

	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < 64 && fn == NULL; i++) {
		if (known[i].name == NULL) {
			known[i].fn = dlsym(RTLD_NEXT, name);
			known[i].name = name;
			if (known[i].fn == NULL)
				abort();
		}
		if (known[i].name == name || strcmp(known[i].name, name) == 0)
			fn = known[i].fn;
	}
	pthread_mutex_unlock(&lock);
	return fn;
}

void
power_record(const char *root, const char *log)
{
	int fd = log == NULL ? 0
			     : REAL(open)(log,
				       O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	if (fd < 0)
		abort();
	pthread_mutex_lock(&rec.lock);
	if (rec.log > 0)
		close(rec.log);
	rec.log = fd;
	if (log != NULL)
		rec.root_n = (size_t)snprintf(rec.root, sizeof(rec.root), "%s", root);
	pthread_mutex_unlock(&rec.lock);
}

static void __attribute__((constructor)) from_environment(void)
{
	const char *root = getenv("POWER_ROOT"), *log = getenv("POWER_LOG");

	if (root != NULL && log != NULL)
		power_record(root, log);
}

/* One call for each operation: threads write to the same file, which is open to append. */
static void
put(struct power_op *op, const char *name, const void *data)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	op->magic = POWER_MAGIC;
	op->time = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	op->name_n = name != NULL ? (uint32_t)strlen(name) : 0;
	struct iovec part[] = { { op, sizeof(*op) },
		{ (void *)(uintptr_t)name, op->name_n },
		{ (void *)(uintptr_t)data, op->data_n } };
	size_t n = sizeof(*op) + op->name_n + op->data_n;
	if (writev(rec.log, part, 3) != (ssize_t)n)
		abort();
}

/* ---- what is below the folder ---- */

static bool
is_below(const char *path)
{
	return strncmp(path, rec.root, rec.root_n) == 0 &&
	       (path[rec.root_n] == '/' || path[rec.root_n] == '\0');
}

static bool
path_of(int fd, char *out, size_t size)
{
	char link[40];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, out, size - 1);
	if (n <= 0)
		return false;
	out[n] = '\0';
	return true;
}

/* The inode number of a file below the folder; 0: anything else. */
static uint64_t
file_of(int fd)
{
	char path[4096];
	struct stat st;

	if (rec.log <= 0 || fstat(fd, &st) != 0 ||
		!(S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)) ||
		!path_of(fd, path, sizeof(path)) || !is_below(path))
		return 0;
	return st.st_ino;
}

struct place {
	uint64_t dir;
	char path[8200];
	const char *name;
	bool in;
};

static void
locate(int at, const char *path, struct place *out)
{
	char dir[4096];
	struct stat st;

	out->in = false;
	if (rec.log <= 0)
		return;
	if (path[0] == '/')
		snprintf(out->path, sizeof(out->path), "%s", path);
	else if (at != AT_FDCWD && path_of(at, dir, sizeof(dir)))
		snprintf(out->path, sizeof(out->path), "%s/%s", dir, path);
	else
		return;
	char *slash = strrchr(out->path, '/');
	if (!is_below(out->path) || slash == out->path)
		return;
	out->name = slash + 1;
	*slash = '\0';
	out->in = stat(out->path, &st) == 0;
	out->dir = st.st_ino;
	*slash = '/';
}

static bool
is_there(const struct place *p, struct stat *st)
{
	return p->in && lstat(p->path, st) == 0;
}

static void
created(const struct place *p, const char *target)
{
	struct stat st;

	if (!is_there(p, &st))
		return;
	struct power_op op = { .kind = POWER_CREATE,
		.dir = p->dir,
		.ino = st.st_ino,
		.mode = st.st_mode,
		.uid = st.st_uid,
		.gid = st.st_gid,
		.data_n = target != NULL ? strlen(target) : 0 };
	put(&op, p->name, target);
}

static void
sized(uint64_t ino, uint64_t size)
{
	struct power_op op = { .kind = POWER_SIZE, .ino = ino, .at = size };

	if (ino != 0)
		put(&op, NULL, NULL);
}

static void
attrs_of(const struct stat *st)
{
	struct power_op op = { .kind = POWER_ATTRS,
		.ino = st->st_ino,
		.mode = st->st_mode,
		.uid = st->st_uid,
		.gid = st->st_gid,
		.at = (uint64_t)st->st_mtim.tv_sec * 1000000000u +
		      (uint64_t)st->st_mtim.tv_nsec };

	put(&op, NULL, NULL);
}

/* A file without a name, which a link may give it. */
static void
created_bare(int fd)
{
	struct stat st;

	if (file_of(fd) == 0 || fstat(fd, &st) != 0)
		return;
	struct power_op op = { .kind = POWER_CREATE,
		.ino = st.st_ino,
		.mode = st.st_mode,
		.uid = st.st_uid,
		.gid = st.st_gid };
	put(&op, NULL, NULL);
}

/* ---- opening ---- */

static int
opened(int at, const char *path, int flags, int (*go)(void *), void *arg)
{
	struct place p;
	struct stat st;

	bool bare = (flags & O_TMPFILE) == O_TMPFILE;
	if (rec.log <= 0 || ((flags & (O_CREAT | O_TRUNC)) == 0 && !bare))
		return go(arg);
	pthread_mutex_lock(&rec.lock);
	locate(at, path, &p);
	bool was = is_there(&p, &st);
	int fd = go(arg), e = errno;
	if (fd >= 0 && bare)
		created_bare(fd);
	else if (fd >= 0 && p.in && !was)
		created(&p, NULL);
	else if (fd >= 0 && was && (flags & O_TRUNC) != 0 && st.st_size > 0)
		sized(st.st_ino, 0);
	pthread_mutex_unlock(&rec.lock);
	errno = e;
	return fd;
}

struct open_call {
	int at, flags;
	const char *path;
	mode_t mode;
	struct open_how *how;
	size_t how_n;
};

static int
go_openat(void *arg)
{
	const struct open_call *c = arg;

	return REAL(openat)(c->at, c->path, c->flags, c->mode);
}

static int
go_openat2(void *arg)
{
	const struct open_call *c = arg;

	return (int)REAL(syscall)(SYS_openat2, c->at, c->path, c->how, c->how_n);
}

#define MODE_OF(mode, flags) \
	do { \
		va_list ap; \
		va_start(ap, flags); \
		mode = (flags) & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0; \
		va_end(ap); \
	} while (0)

int
open(const char *path, int flags, ...)
{
	struct open_call c = { .at = AT_FDCWD, .path = path, .flags = flags };

	MODE_OF(c.mode, flags);
	return opened(AT_FDCWD, path, flags, go_openat, &c);
}

int
openat(int at, const char *path, int flags, ...)
{
	struct open_call c = { .at = at, .path = path, .flags = flags };

	MODE_OF(c.mode, flags);
	return opened(at, path, flags, go_openat, &c);
}

int
open64(const char *path, int flags, ...)
{
	struct open_call c = { .at = AT_FDCWD, .path = path, .flags = flags };

	MODE_OF(c.mode, flags);
	return opened(AT_FDCWD, path, flags, go_openat, &c);
}

int
openat64(int at, const char *path, int flags, ...)
{
	struct open_call c = { .at = at, .path = path, .flags = flags };

	MODE_OF(c.mode, flags);
	return opened(at, path, flags, go_openat, &c);
}

/* openat2 has no function of its own. */
long
syscall(long number, ...)
{
	long a[6];
	va_list ap;

	va_start(ap, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(ap, long);
	va_end(ap);
	if (number != SYS_openat2)
		return REAL(syscall)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
	struct open_call c = { .at = (int)a[0],
		.path = (const char *)a[1],
		.how = (struct open_how *)a[2],
		.how_n = (size_t)a[3] };
	return opened(c.at, c.path, (int)c.how->flags, go_openat2, &c);
}

/* ---- bytes ---- */

static void
wrote(int fd, const void *data, ssize_t n, off_t at)
{
	struct power_op op = { .kind = POWER_WRITE, .ino = file_of(fd) };
	int e = errno;

	if (n > 0 && op.ino != 0) {
		op.at = (uint64_t)(at >= 0 ? at : lseek(fd, 0, SEEK_CUR) - n);
		op.data_n = (uint64_t)n;
		put(&op, NULL, data);
	}
	errno = e;
}

#define UNDER_LOCK(type, call, after) \
	if (rec.log <= 0) \
		return call; \
	pthread_mutex_lock(&rec.lock); \
	type done = call; \
	int kept_errno = errno; \
	after; \
	pthread_mutex_unlock(&rec.lock); \
	errno = kept_errno; \
	return done

/* Sockets and pipes may block: nothing is held around them. */
ssize_t
write(int fd, const void *p, size_t n)
{
	if (rec.log <= 0 || fd == rec.log || file_of(fd) == 0)
		return REAL(write)(fd, p, n);
	UNDER_LOCK(ssize_t, REAL(write)(fd, p, n), wrote(fd, p, done, -1));
}

ssize_t
pwrite(int fd, const void *p, size_t n, off_t at)
{
	UNDER_LOCK(ssize_t, REAL(pwrite)(fd, p, n, at), wrote(fd, p, done, at));
}

ssize_t
pwrite64(int fd, const void *p, size_t n, off64_t at)
{
	UNDER_LOCK(ssize_t, REAL(pwrite)(fd, p, n, at), wrote(fd, p, done, at));
}

static void
resized(int fd, int rc)
{
	struct stat st;

	if (rc == 0 && fstat(fd, &st) == 0)
		sized(file_of(fd), (uint64_t)st.st_size);
}

int
ftruncate(int fd, off_t size)
{
	UNDER_LOCK(int, REAL(ftruncate)(fd, size), resized(fd, done));
}

int
ftruncate64(int fd, off64_t size)
{
	UNDER_LOCK(int, REAL(ftruncate)(fd, size), resized(fd, done));
}

int
posix_fallocate64(int fd, off64_t at, off64_t n)
{
	UNDER_LOCK(int, REAL(posix_fallocate)(fd, at, n), resized(fd, done));
}

/* ---- syncs ---- */

static int
synced(int fd, bool all, int (*go)(int))
{
	struct power_op op = { .kind = POWER_SYNC, .ino = file_of(fd) };

	if (op.ino == 0)
		return go(fd);
	pthread_mutex_lock(&rec.lock);
	if (all)
		op.ino = 0;
	put(&op, NULL, NULL);
	pthread_mutex_unlock(&rec.lock);
	return 0;
}

int
fsync(int fd)
{
	return synced(fd, false, REAL(fsync));
}

int
fdatasync(int fd)
{
	return synced(fd, false, REAL(fdatasync));
}

int
syncfs(int fd)
{
	return synced(fd, true, REAL(syncfs));
}

/* ---- names ---- */

#define WITH_PLACE(at, path, call, after) \
	struct place p; \
	if (rec.log <= 0) \
		return call; \
	pthread_mutex_lock(&rec.lock); \
	locate(at, path, &p); \
	int done = call, kept_errno = errno; \
	if (done == 0 && p.in) \
		after; \
	pthread_mutex_unlock(&rec.lock); \
	errno = kept_errno; \
	return done

int
mkdirat(int at, const char *path, mode_t mode)
{
	WITH_PLACE(at, path, REAL(mkdirat)(at, path, mode), created(&p, NULL));
}

int
mkdir(const char *path, mode_t mode)
{
	WITH_PLACE(AT_FDCWD, path, REAL(mkdir)(path, mode), created(&p, NULL));
}

int
symlinkat(const char *target, int at, const char *path)
{
	WITH_PLACE(at, path, REAL(symlinkat)(target, at, path), created(&p, target));
}

static void
linked(const struct place *p)
{
	struct stat st;

	if (!is_there(p, &st))
		return;
	struct power_op op = { .kind = POWER_LINK, .dir = p->dir, .ino = st.st_ino };
	put(&op, p->name, NULL);
}

int
linkat(int from, const char *old, int at, const char *path, int flags)
{
	WITH_PLACE(at, path, REAL(linkat)(from, old, at, path, flags), linked(&p));
}

int
link(const char *old, const char *path)
{
	WITH_PLACE(AT_FDCWD, path, REAL(link)(old, path), linked(&p));
}

static void
unlinked(const struct place *p)
{
	struct power_op op = { .kind = POWER_UNLINK, .dir = p->dir };

	put(&op, p->name, NULL);
}

int
unlinkat(int at, const char *path, int flags)
{
	WITH_PLACE(at, path, REAL(unlinkat)(at, path, flags), unlinked(&p));
}

int
unlink(const char *path)
{
	WITH_PLACE(AT_FDCWD, path, REAL(unlink)(path), unlinked(&p));
}

int
rmdir(const char *path)
{
	WITH_PLACE(AT_FDCWD, path, REAL(rmdir)(path), unlinked(&p));
}

static int
renamed(int from, const char *old, int to, const char *path, unsigned flags)
{
	struct place a, b;
	struct stat before, st;

	if (rec.log <= 0)
		return REAL(renameat2)(from, old, to, path, flags);
	pthread_mutex_lock(&rec.lock);
	locate(from, old, &a);
	locate(to, path, &b);
	bool was = is_there(&b, &before) && is_there(&a, &st) &&
		   st.st_ino == before.st_ino;
	int rc = REAL(renameat2)(from, old, to, path, flags), e = errno;
	if (rc == 0 && a.in != b.in)
		abort(); /* in or out of the folder: no test does that */
	/* Two names of one file: nothing happens (rename(2)). */
	if (rc == 0 && a.in && !was) {
		struct power_op op = { .kind = POWER_RENAME,
			.dir = a.dir,
			.dir2 = b.dir,
			.at = flags & RENAME_EXCHANGE ? 1 : 0,
			.data_n = strlen(b.name) };
		put(&op, a.name, b.name);
	}
	pthread_mutex_unlock(&rec.lock);
	errno = e;
	return rc;
}

int
renameat2(int from, const char *old, int to, const char *path, unsigned flags)
{
	return renamed(from, old, to, path, flags);
}

int
renameat(int from, const char *old, int to, const char *path)
{
	return renamed(from, old, to, path, 0);
}

int
rename(const char *old, const char *path)
{
	return renamed(AT_FDCWD, old, AT_FDCWD, path, 0);
}

/* ---- owners, modes, times ---- */

static void
fd_attrs(int fd)
{
	struct stat st;

	if (file_of(fd) != 0 && fstat(fd, &st) == 0)
		attrs_of(&st);
}

static void
place_attrs(const struct place *p)
{
	struct stat st;

	if (is_there(p, &st))
		attrs_of(&st);
}

int
fchmod(int fd, mode_t mode)
{
	UNDER_LOCK(int, REAL(fchmod)(fd, mode), fd_attrs(fd));
}

int
fchown(int fd, uid_t uid, gid_t gid)
{
	UNDER_LOCK(int, REAL(fchown)(fd, uid, gid), fd_attrs(fd));
}

int
futimens(int fd, const struct timespec t[2])
{
	UNDER_LOCK(int, REAL(futimens)(fd, t), fd_attrs(fd));
}

int
chmod(const char *path, mode_t mode)
{
	WITH_PLACE(AT_FDCWD, path, REAL(chmod)(path, mode), place_attrs(&p));
}

int
fchmodat(int at, const char *path, mode_t mode, int flags)
{
	WITH_PLACE(at, path, REAL(fchmodat)(at, path, mode, flags), place_attrs(&p));
}

int
fchownat(int at, const char *path, uid_t uid, gid_t gid, int flags)
{
	WITH_PLACE(
		at, path, REAL(fchownat)(at, path, uid, gid, flags), place_attrs(&p));
}

int
utimensat(int at, const char *path, const struct timespec t[2], int flags)
{
	WITH_PLACE(at, path, REAL(utimensat)(at, path, t, flags), place_attrs(&p));
}
