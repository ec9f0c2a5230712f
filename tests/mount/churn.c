/*
 * churn - random operations in a folder of its own, each compared with a model.
 *
 *   churn FOLDER SEED SECONDS [xattr=yes]
 *
 * The model knows for every name what must be there: which object, its bytes, link count, inode
 * number, mode. Every answer of the kernel, errors included, must be the model's. Ends with
 * "N operations" and exit status 0, or at the first difference with a line that says what
 * differed. Meant to run while the server behind the mount is killed: nothing may show.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define DIRS 4
#define NAMES 24
#define OBJECTS (DIRS * NAMES + HELD)
#define HELD 16
#define BYTES 20000

enum kind { FREE, FILE_, LINK, DIR_, FIFO };

struct object {
	enum kind kind;
	unsigned nlink, held;
	ino_t ino;
	mode_t mode;
	size_t size;
	char attr; /* the value of user.x, 0 for none */
	char target[32];
	uint8_t data[BYTES];
};

static struct object objects[OBJECTS];
static struct object *names[DIRS][NAMES];
static struct {
	struct object *o;
	int fd;
} held[HELD];
static uint64_t seed;
static unsigned long done;
static bool xattrs;
static char last[400]; /* the operation that is being compared */

static void __attribute__((noreturn, format(printf, 1, 2))) die(const char *fmt, ...)
{
	va_list ap;

	printf("operation %lu, %s: ", done, last);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
	exit(1);
}

static uint64_t
rnd(uint64_t below)
{
	seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
	return (seed >> 33) % below;
}

static const char *
path(int d, int n)
{
	static char ring[4][32];
	static int at;

	at = (at + 1) % 4;
	snprintf(ring[at], sizeof(ring[at]), "d%d/n%d", d, n);
	return ring[at];
}

/* The call must say what the model says: 0 or an errno. */
static void
expect(long rc, int want)
{
	int got = rc < 0 ? errno : 0;

	if (got != want)
		die("%s, expected %s", strerror(got), strerror(want));
}

static struct object *
take(enum kind kind, mode_t mode)
{
	for (int i = 0; i < OBJECTS; i++)
		if (objects[i].kind == FREE) {
			memset(&objects[i], 0, sizeof(objects[i]));
			objects[i].kind = kind;
			objects[i].nlink = kind == DIR_ ? 2 : 1;
			objects[i].mode = mode;
			return &objects[i];
		}
	die("the model is full");
}

static void
lose_name(struct object *o)
{
	if (o == NULL)
		return;
	o->nlink = o->kind == DIR_ ? 0 : o->nlink - 1;
	if (o->nlink == 0 && o->held == 0)
		o->kind = FREE;
}

static mode_t
type_of(const struct object *o)
{
	static const mode_t types[] = { 0, S_IFREG, S_IFLNK, S_IFDIR, S_IFIFO };

	return types[o->kind];
}

static void
same_stat(struct object *o, const struct stat *st)
{
	if ((st->st_mode & S_IFMT) != type_of(o))
		die("type %o, expected %o", st->st_mode, type_of(o));
	if (o->ino == 0)
		o->ino = st->st_ino;
	if (st->st_ino != o->ino)
		die("inode %lu, expected %lu", (unsigned long)st->st_ino,
			(unsigned long)o->ino);
	if (o->kind != LINK && (st->st_mode & 07777) != o->mode)
		die("mode %o, expected %o", st->st_mode & 07777, o->mode);
	if (st->st_nlink != o->nlink)
		die("nlink %lu, expected %u", (unsigned long)st->st_nlink, o->nlink);
	if (o->kind == FILE_ && (size_t)st->st_size != o->size)
		die("size %lld, expected %zu", (long long)st->st_size, o->size);
}

static void
look(int d, int n)
{
	struct object *o = names[d][n];
	struct stat st;

	int rc = lstat(path(d, n), &st);
	expect(rc, o == NULL ? ENOENT : 0);
	if (o != NULL)
		same_stat(o, &st);
}

static void
same_bytes(const struct object *o, int fd)
{
	uint8_t got[BYTES + 1];
	ssize_t n = pread(fd, got, sizeof(got), 0);

	if (n != (ssize_t)o->size)
		die("read gives %zd (%s), expected %zu", n,
			n < 0 ? strerror(errno) : "", o->size);
	for (ssize_t i = 0; i < n; i++)
		if (got[i] != o->data[i])
			die("byte %zd of %zd is %d, expected %d", i, n, got[i],
				o->data[i]);
}

static void
op_create(int d, int n)
{
	struct object *o = names[d][n];
	bool excl = rnd(2);

	snprintf(last, sizeof(last), "create %s%s", path(d, n), excl ? " excl" : "");
	if (!excl && o != NULL && o->kind != FILE_)
		return; /* would wait, or follow */
	mode_t mode = rnd(2) ? 0644 : 0600;
	int fd = open(path(d, n), O_RDWR | O_CREAT | (excl ? O_EXCL : 0), mode);
	expect(fd, o != NULL && excl ? EEXIST : 0);
	if (fd < 0)
		return;
	if (o == NULL)
		names[d][n] = o = take(FILE_, mode);
	struct stat st;
	expect(fstat(fd, &st), 0);
	same_stat(o, &st);
	same_bytes(o, fd);
	int h = (int)rnd(HELD);
	if (held[h].o == NULL && rnd(2)) {
		held[h].o = o;
		held[h].fd = fd;
		o->held++;
	} else
		close(fd);
}

static void
change(struct object *o, int fd)
{
	uint8_t buf[6000];
	size_t len = rnd(sizeof(buf)), off = rnd(BYTES - sizeof(buf));

	if (rnd(6) == 0) {
		size_t size = rnd(BYTES);
		snprintf(last + strlen(last), 40, " truncate %zu", size);
		expect(ftruncate(fd, (off_t)size), 0);
		if (size < o->size)
			memset(o->data + size, 0, o->size - size);
		o->size = size;
		return;
	}
	snprintf(last + strlen(last), 40, " write %zu at %zu", len, off);
	memset(buf, (int)(1 + rnd(255)), len);
	ssize_t w = pwrite(fd, buf, len, (off_t)off);
	if (w != (ssize_t)len)
		die("wrote %zd: %s", w, w < 0 ? strerror(errno) : "short");
	memcpy(o->data + off, buf, len);
	if (len > 0 && off + len > o->size)
		o->size = off + len;
	if (rnd(10) == 0)
		expect(fsync(fd), 0);
}

static void
op_file(int d, int n)
{
	struct object *o = names[d][n];

	snprintf(last, sizeof(last), "open %s", path(d, n));
	if (o == NULL || o->kind != FILE_)
		return;
	bool trunc = rnd(8) == 0, append = !trunc && rnd(6) == 0;
	int fd = open(
		path(d, n), O_RDWR | (trunc ? O_TRUNC : 0) | (append ? O_APPEND : 0));
	expect(fd, 0);
	if (trunc) {
		memset(o->data, 0, o->size);
		o->size = 0;
	}
	if (append && o->size < BYTES - 100) {
		snprintf(last + strlen(last), 40, " append");
		expect(write(fd, "append", 6) == 6 ? 0 : -1, 0);
		memcpy(o->data + o->size, "append", 6);
		o->size += 6;
	} else if (!append && rnd(2))
		change(o, fd);
	same_bytes(o, fd);
	if (o->size > 0 && rnd(4) == 0) {
		uint8_t *m = mmap(NULL, o->size, PROT_READ, MAP_SHARED, fd, 0);
		if (m == MAP_FAILED || memcmp(m, o->data, o->size) != 0)
			die("the mapping differs");
		munmap(m, o->size);
	}
	close(fd);
}

static void
op_held(int h)
{
	struct object *o = held[h].o;
	struct stat st;

	snprintf(last, sizeof(last), "held %d", h);
	if (o == NULL)
		return;
	expect(fstat(held[h].fd, &st), 0);
	same_stat(o, &st);
	same_bytes(o, held[h].fd);
	change(o, held[h].fd);
	same_bytes(o, held[h].fd);
	if (rnd(3) == 0) {
		close(held[h].fd);
		held[h].o = NULL;
		if (--o->held == 0 && o->nlink == 0)
			o->kind = FREE;
	}
}

static void
op_link(int d, int n, int e, int m)
{
	struct object *from = names[d][n], *to = names[e][m];

	snprintf(last, sizeof(last), "link %s %s", path(d, n), path(e, m));
	int rc = link(path(d, n), path(e, m));
	expect(rc, from == NULL ? ENOENT
		   : to != NULL ? EEXIST
				: (from->kind == DIR_ ? EPERM : 0));
	if (rc == 0) {
		names[e][m] = from;
		from->nlink++;
		look(d, n);
	}
	look(e, m);
}

static void
op_unlink(int d, int n)
{
	struct object *o = names[d][n];

	snprintf(last, sizeof(last), "unlink %s", path(d, n));
	int rc = unlink(path(d, n));
	expect(rc, o == NULL ? ENOENT : o->kind == DIR_ ? EISDIR : 0);
	if (rc == 0) {
		names[d][n] = NULL;
		lose_name(o);
	}
	look(d, n);
}

static void
op_rename(int d, int n, int e, int m)
{
	static const unsigned all[] = { 0, RENAME_NOREPLACE, RENAME_EXCHANGE };
	struct object *from = names[d][n], *to = names[e][m];
	unsigned flags = all[rnd(3)];
	int want = 0;

	snprintf(last, sizeof(last), "rename %s %s flags %u", path(d, n), path(e, m),
		flags);
	if (from == NULL)
		want = ENOENT;
	else if (flags == RENAME_EXCHANGE)
		want = to == NULL ? ENOENT : 0;
	else if (to != NULL && flags == RENAME_NOREPLACE)
		want = EEXIST;
	else if (to != NULL && from != to && (from->kind == DIR_) != (to->kind == DIR_))
		want = from->kind == DIR_ ? ENOTDIR : EISDIR;
	int rc = renameat2(AT_FDCWD, path(d, n), AT_FDCWD, path(e, m), flags);
	expect(rc, want);
	if (rc == 0 && from != to) {
		names[e][m] = from;
		names[d][n] = flags == RENAME_EXCHANGE ? to : NULL;
		if (flags != RENAME_EXCHANGE)
			lose_name(to);
	}
	look(d, n);
	look(e, m);
}

static void
op_make(int d, int n)
{
	struct object *o = names[d][n];
	char target[32];
	int rc, kind = (int)rnd(3);

	snprintf(last, sizeof(last), "make %s kind %d", path(d, n), kind);
	snprintf(target, sizeof(target), "t%lu", (unsigned long)rnd(1000000));
	if (kind == 0)
		rc = symlink(target, path(d, n));
	else if (kind == 1)
		rc = mkdir(path(d, n), 0755);
	else
		rc = mkfifo(path(d, n), 0640);
	expect(rc, o != NULL ? EEXIST : 0);
	if (rc == 0) {
		static const enum kind kinds[] = { LINK, DIR_, FIFO };
		static const mode_t modes[] = { 0777, 0755, 0640 };
		o = names[d][n] = take(kinds[kind], modes[kind]);
		memcpy(o->target, target, sizeof(target));
	}
	look(d, n);
}

static void
op_rmdir(int d, int n)
{
	struct object *o = names[d][n];

	snprintf(last, sizeof(last), "rmdir %s", path(d, n));
	int rc = rmdir(path(d, n));
	expect(rc, o == NULL ? ENOENT : o->kind == DIR_ ? 0 : ENOTDIR);
	if (rc == 0) {
		names[d][n] = NULL;
		lose_name(o);
	}
}

static void
op_attr(int d, int n)
{
	struct object *o = names[d][n];
	char b[32];

	snprintf(last, sizeof(last), "attributes of %s", path(d, n));
	if (o == NULL)
		return;
	if (o->kind == LINK) {
		ssize_t len = readlink(path(d, n), b, sizeof(b));
		if (len != (ssize_t)strlen(o->target) ||
			memcmp(b, o->target, (size_t)len))
			die("the symlink reads %.*s, expected %s", (int)len, b,
				o->target);
		return;
	}
	mode_t mode = (mode_t)(0400 | rnd(0400));
	if (o->kind == DIR_)
		mode |= 0700;
	expect(chmod(path(d, n), mode), 0);
	o->mode = mode;
	struct timespec ts[2] = { { (time_t)rnd(1u << 31), 0 },
		{ (time_t)rnd(1u << 31), 5 } };
	struct stat st;
	expect(utimensat(AT_FDCWD, path(d, n), ts, 0), 0);
	expect(stat(path(d, n), &st), 0);
	same_stat(o, &st);
	if (st.st_mtim.tv_sec != ts[1].tv_sec || st.st_mtim.tv_nsec != 5)
		die("mtime %lld, expected %lld", (long long)st.st_mtim.tv_sec,
			(long long)ts[1].tv_sec);
	if (!xattrs || o->kind != FILE_)
		return;
	char value = (char)('a' + rnd(26));
	switch (rnd(3)) {
	case 0:
		snprintf(last, sizeof(last), "xattr create on %s", path(d, n));
		expect(setxattr(path(d, n), "user.x", &value, 1, XATTR_CREATE),
			o->attr ? EEXIST : 0);
		o->attr = o->attr ? o->attr : value;
		break;
	case 1:
		snprintf(last, sizeof(last), "xattr replace on %s", path(d, n));
		expect(setxattr(path(d, n), "user.x", &value, 1, XATTR_REPLACE),
			o->attr ? 0 : ENODATA);
		o->attr = o->attr ? value : 0;
		break;
	default:
		snprintf(last, sizeof(last), "xattr remove on %s", path(d, n));
		expect(removexattr(path(d, n), "user.x"), o->attr ? 0 : ENODATA);
		o->attr = 0;
	}
	b[0] = 0;
	expect(getxattr(path(d, n), "user.x", b, 1), o->attr ? 0 : ENODATA);
	if (b[0] != o->attr)
		die("xattr is %d, expected %d", b[0], o->attr);
}

static void
op_list(int d)
{
	char dir[16];
	bool seen[NAMES] = { false };

	snprintf(dir, sizeof(dir), "d%d", d);
	snprintf(last, sizeof(last), "list %s", dir);
	DIR *p = opendir(dir);
	if (p == NULL)
		die("opendir: %s", strerror(errno));
	errno = 0;
	for (struct dirent *e; (e = readdir(p)) != NULL;) {
		if (e->d_name[0] == '.')
			continue;
		int n = atoi(e->d_name + 1);
		if (e->d_name[0] != 'n' || n < 0 || n >= NAMES || seen[n])
			die("%s is listed twice or should not be", e->d_name);
		seen[n] = true;
		struct object *o = names[d][n];
		if (o == NULL)
			die("%s is listed and does not exist", e->d_name);
		if (o->ino != 0 && e->d_ino != o->ino)
			die("%s is listed with inode %lu, expected %lu", e->d_name,
				(unsigned long)e->d_ino, (unsigned long)o->ino);
		if ((mode_t)DTTOIF(e->d_type) != type_of(o))
			die("%s is listed with type %d", e->d_name, e->d_type);
	}
	if (errno != 0)
		die("readdir: %s", strerror(errno));
	closedir(p);
	for (int n = 0; n < NAMES; n++)
		if (names[d][n] != NULL && !seen[n])
			die("n%d is not listed", n);
}

/* Whole folders change places. */
static void
op_exchange(int d, int e)
{
	struct object *t[NAMES];
	char a[16], b[16];

	snprintf(a, sizeof(a), "d%d", d);
	snprintf(b, sizeof(b), "d%d", e);
	snprintf(last, sizeof(last), "exchange %s %s", a, b);
	expect(renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE), 0);
	if (d == e)
		return;
	memcpy(t, names[d], sizeof(t));
	memcpy(names[d], names[e], sizeof(t));
	memcpy(names[e], t, sizeof(t));
}

/* A file without a name, that gets one. */
static void
op_nameless(int d, int n)
{
	char dir[16], proc[64];

	if (names[d][n] != NULL)
		return;
	snprintf(dir, sizeof(dir), "d%d", d);
	snprintf(last, sizeof(last), "nameless %s", path(d, n));
	int fd = open(dir, O_TMPFILE | O_RDWR, 0640);
	if (fd < 0) {
		expect(fd, EOPNOTSUPP);
		return;
	}
	struct object *o = take(FILE_, 0640);
	change(o, fd);
	snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
	expect(linkat(AT_FDCWD, proc, AT_FDCWD, path(d, n), AT_SYMLINK_FOLLOW), 0);
	names[d][n] = o;
	look(d, n);
	same_bytes(o, fd);
	close(fd);
}

static void
step(void)
{
	int d = (int)rnd(DIRS), n = (int)rnd(NAMES), e = (int)rnd(DIRS),
	    m = (int)rnd(NAMES);

	switch (rnd(16)) {
	case 0:
	case 1:
	case 2:
		op_create(d, n);
		break;
	case 3:
	case 4:
		op_file(d, n);
		break;
	case 5:
	case 6:
		op_held((int)rnd(HELD));
		break;
	case 7:
		op_link(d, n, e, m);
		break;
	case 8:
		op_unlink(d, n);
		break;
	case 9:
	case 10:
	case 11:
		op_rename(d, n, e, m);
		break;
	case 12:
		op_make(d, n);
		break;
	case 13:
		op_rmdir(d, n);
		break;
	case 14:
		op_attr(d, n);
		break;
	default:
		switch (rnd(4)) {
		case 0:
			op_exchange(d, e);
			break;
		case 1:
			op_nameless(d, n);
			break;
		default:
			op_list(d);
		}
	}
	done++;
}

/* Everything once more, then nothing is left. */
static void
finish(void)
{
	char dir[16];

	for (int d = 0; d < DIRS; d++) {
		op_list(d);
		for (int n = 0; n < NAMES; n++) {
			snprintf(last, sizeof(last), "at the end %s", path(d, n));
			look(d, n);
			struct object *o = names[d][n];
			if (o == NULL)
				continue;
			if (o->kind == FILE_) {
				int fd = open(path(d, n), O_RDONLY);
				expect(fd, 0);
				same_bytes(o, fd);
				close(fd);
			}
			if (o->kind == DIR_)
				op_rmdir(d, n);
			else
				op_unlink(d, n);
		}
		snprintf(dir, sizeof(dir), "d%d", d);
		snprintf(last, sizeof(last), "rmdir %s", dir);
		expect(rmdir(dir), 0);
	}
	for (int h = 0; h < HELD; h++)
		op_held(h);
}

int
main(int argc, char **argv)
{
	struct timespec now, end;
	char dir[16];

	if (argc < 4) {
		fprintf(stderr, "usage: churn FOLDER SEED SECONDS [xattr=yes]\n");
		return 2;
	}
	seed = strtoull(argv[2], NULL, 10) * 2 + 1;
	xattrs = argc > 4 && strcmp(argv[4], "xattr=yes") == 0;
	umask(0);
	if (chdir(argv[1]) != 0)
		die("chdir %s: %s", argv[1], strerror(errno));
	for (int d = 0; d < DIRS; d++) {
		snprintf(dir, sizeof(dir), "d%d", d);
		snprintf(last, sizeof(last), "mkdir %s", dir);
		expect(mkdir(dir, 0755), 0);
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += atoi(argv[3]);
	do {
		for (int i = 0; i < 20; i++)
			step();
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec < end.tv_sec);
	finish();
	printf("%lu operations\n", done);
	return 0;
}
