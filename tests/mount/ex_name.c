/*
 * ex_name - names: links, symlinks, fifos, sockets, folders, rename with every flag over
 * every kind, long names, deep paths, inode numbers.
 */
#include "tests/mount/ex.h"

#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

CASE(hard_links)
{
	PUT("f", "text");
	MUST(mkdir("d", 0755));
	MUST(link("f", "d/g"));
	SAME(STAT("f").st_ino, STAT("d/g").st_ino);
	SAME(STAT("f").st_nlink, 2);
	HOLDS("d/g", "text");
	/* what goes in by one name comes out by the other, cached or not */
	int fd = MUST(open("f", O_RDWR));
	int gd = MUST(open("d/g", O_RDWR));
	SAME(pwrite(fd, "TEXT!", 5, 0), 5);
	HOLDS("d/g", "TEXT!");
	SAME(FSTAT(gd).st_size, 5);
	MUST(ftruncate(gd, 2));
	HOLDS("f", "TE");
	MUST(chmod("f", 0600));
	SAME(STAT("d/g").st_mode & 07777, 0600);
	FAILS(link("f", "d/g"), EEXIST);
	FAILS(link("none", "x"), ENOENT);
	FAILS(link("d", "x"), EPERM);
	FAILS(link("f", "none/x"), ENOENT);
	FAILS(link("f", "f/x"), ENOTDIR);
	MUST(unlink("f"));
	SAME(STAT("d/g").st_nlink, 1);
	HOLDS("d/g", "TE");
	/* onto a name just unlinked, with other content (FT10, FT17) */
	PUT("1", "one");
	PUT("2", "two");
	for (int i = 0; i < 50; i++) {
		MUST(link(i % 2 ? "1" : "2", "m"));
		HOLDS("m", i % 2 ? "one" : "two");
		SAME(STAT("m").st_ino, STAT(i % 2 ? "1" : "2").st_ino);
		MUST(unlink("m"));
	}
}

CASE(linkat_flags)
{
	PUT("f", "x");
	MUST(symlink("f", "l"));
	MUST(linkat(AT_FDCWD, "l", AT_FDCWD, "l2", 0));
	CHECK(S_ISLNK(STAT("l2").st_mode));
	SAME(STAT("l2").st_ino, STAT("l").st_ino);
	SAME(STAT("l").st_nlink, 2);
	MUST(linkat(AT_FDCWD, "l", AT_FDCWD, "f2", AT_SYMLINK_FOLLOW));
	SAME(STAT("f2").st_ino, STAT("f").st_ino);
	int fd = MUST(open("f", O_RDONLY));
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	MUST(linkat(AT_FDCWD, path, AT_FDCWD, "f3", AT_SYMLINK_FOLLOW));
	SAME(STAT("f").st_nlink, 3);
	MUST(unlink("f"));
	MUST(unlink("f2"));
	MUST(unlink("f3"));
	SAME(FSTAT(fd).st_nlink, 0);
	/* a file without a name does not get one again */
	FAILS(linkat(AT_FDCWD, path, AT_FDCWD, "f4", AT_SYMLINK_FOLLOW), ENOENT);
}

CASE(symlinks)
{
	char to[PATH_MAX], got[PATH_MAX];

	MUST(symlink("nowhere", "l"));
	SAME(readlink("l", got, sizeof got), 7);
	SAME(memcmp(got, "nowhere", 7), 0);
	SAME(readlink("l", got, 3), 3);
	SAME(STAT("l").st_size, 7);
	CHECK(S_ISLNK(STAT("l").st_mode));
	FAILS(open("l", O_RDONLY), ENOENT);
	FAILS(open("l", O_RDONLY | O_NOFOLLOW), ELOOP);
	FAILS(open("l", O_RDWR | O_CREAT | O_EXCL, 0644), EEXIST);
	int fd = MUST(open("l", O_RDWR | O_CREAT, 0644)); /* makes its target */
	SAME(write(fd, "via", 3), 3);
	HOLDS("nowhere", "via");
	FAILS(symlink("x", "l"), EEXIST);
	FAILS(symlink("", "e"), ENOENT);
	FAILS(readlink("nowhere", got, sizeof got), EINVAL);
	FAILS(rmdir("l"), ENOTDIR);
	MUST(symlink("loop", "loop"));
	FAILS(open("loop", O_RDONLY), ELOOP);
	memset(to, 'x', sizeof to);
	for (size_t n = 1; n < sizeof to; n = n * 2 + 1) {
		to[n] = '\0';
		MUST(symlink(to, "long"));
		SAME(STAT("long").st_size, n);
		SAME(readlink("long", got, sizeof got), n);
		SAME(memcmp(got, to, n), 0);
		MUST(unlink("long"));
		to[n] = 'x';
	}
	to[PATH_MAX - 1] = '\0';
	MUST(symlink(to, "long"));
	SAME(readlink("long", got, sizeof got), PATH_MAX - 1);
	/* a changed target is seen at once */
	MUST(mkdir("a", 0755));
	MUST(mkdir("b", 0755));
	PUT("a/f", "in a");
	PUT("b/f", "in b");
	for (int i = 0; i < 20; i++) {
		MUST(symlink(i % 2 ? "a" : "b", "cur.new"));
		MUST(rename("cur.new", "cur"));
		HOLDS("cur/f", i % 2 ? "in a" : "in b");
	}
}

CASE(fifos)
{
	char b[8];

	MUST(mkfifo("p", 0640));
	CHECK(S_ISFIFO(STAT("p").st_mode));
	SAME(STAT("p").st_mode & 07777, 0640);
	FAILS(open("p", O_WRONLY | O_NONBLOCK), ENXIO);
	FAILS(mkfifo("p", 0600), EEXIST);
	pid_t pid = ex_fork();
	if (pid == 0) {
		int w = MUST(open("p", O_WRONLY));
		SAME(write(w, "hello", 5), 5);
		_exit(0);
	}
	int r = MUST(open("p", O_RDONLY));
	SAME(read(r, b, sizeof b), 5);
	JOIN(pid);
	SAME(read(r, b, sizeof b), 0);
	MUST(link("p", "q"));
	SAME(STAT("q").st_ino, STAT("p").st_ino);
	MUST(rename("p", "p2"));
	MUST(unlink("p2"));
	CHECK(S_ISFIFO(STAT("q").st_mode));
}

CASE(sockets)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "s" };
	char b[8];

	int s = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
	MUST(bind(s, (struct sockaddr *)&a, sizeof a));
	CHECK(S_ISSOCK(STAT("s").st_mode));
	MUST(listen(s, 1));
	int c = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
	MUST(connect(c, (struct sockaddr *)&a, sizeof a));
	int d = MUST(accept(s, NULL, NULL));
	SAME(write(c, "hi", 2), 2);
	SAME(read(d, b, 8), 2);
	FAILS(open("s", O_RDONLY), ENXIO);
	int t = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
	FAILS(bind(t, (struct sockaddr *)&a, sizeof a), EADDRINUSE);
	MUST(unlink("s"));
	MUST(bind(t, (struct sockaddr *)&a, sizeof a));
}

CASE(device_nodes)
{
	MUST(mknod("c", S_IFCHR | 0600, makedev(1, 3)));
	MUST(mknod("b", S_IFBLK | 0600, makedev(7, 200)));
	CHECK(S_ISCHR(STAT("c").st_mode));
	CHECK(S_ISBLK(STAT("b").st_mode));
	SAME(STAT("c").st_rdev, makedev(1, 3));
	SAME(STAT("b").st_rdev, makedev(7, 200));
	MUST(mknod("f", S_IFREG | 0640, 0));
	CHECK(S_ISREG(STAT("f").st_mode));
	MUST(chmod(".", 0777));
	AS(UID_A, false)
	{
		FAILS(mknod("c2", S_IFCHR | 0600, makedev(1, 3)), EPERM);
		MUST(mknod("f2", S_IFREG | 0600, 0));
	}
}

CASE(folders)
{
	char cwd[PATH_MAX];

	MUST(mkdir("d", 0755));
	FAILS(mkdir("d", 0755), EEXIST);
	FAILS(mkdir("none/d", 0755), ENOENT);
	FAILS(mkdir("d/.", 0755), EEXIST);
	TOUCH("f");
	FAILS(mkdir("f", 0755), EEXIST);
	FAILS(mkdir("f/d", 0755), ENOTDIR);
	FAILS(rmdir("f"), ENOTDIR);
	FAILS(unlink("d"), EISDIR);
	FAILS(rmdir("none"), ENOENT);
	FAILS(rmdir("d/."), EINVAL);
	MUST(mkdir("d/e", 0755));
	FAILS(rmdir("d"), ENOTEMPTY);
	FAILS(rmdir("d/e/.."), ENOTEMPTY);
	FAILS(open("d", O_WRONLY), EISDIR);
	FAILS(open("d", O_RDWR | O_CREAT, 0644), EISDIR);
	FAILS(open("f", O_RDONLY | O_DIRECTORY), ENOTDIR);
	FAILS(open("f/", O_RDONLY), ENOTDIR);
	FAILS(open("new/", O_RDWR | O_CREAT, 0644), EISDIR);
	MUST(mkdir("new/", 0755));
	SAME(STAT("d/e/..").st_ino, STAT("d").st_ino);
	/* a folder that is gone from under its users */
	int fd = MUST(open("d/e", O_RDONLY));
	MUST(chdir("d/e"));
	MUST(rmdir("../e"));
	FAILS(open("x", O_RDWR | O_CREAT, 0644), ENOENT);
	FAILS(mkdirat(fd, "x", 0755), ENOENT);
	FAILS(symlinkat("x", fd, "x"), ENOENT);
	FAILS(open("../e", O_RDONLY), ENOENT);
	SAME(FSTAT(fd).st_nlink, 0);
	CHECK(getcwd(cwd, sizeof cwd) == NULL && errno == ENOENT);
	int up = MUST(open("..", O_RDONLY));
	MUST(fchdir(up));
	MUST(chdir(".."));
	/* the same name again is another folder */
	MUST(mkdir("e", 0755));
	CHECK(STAT("e").st_ino != FSTAT(fd).st_ino);
	FAILS(openat(fd, "x", O_RDWR | O_CREAT, 0644), ENOENT);
}

/* One thing of each kind. */
enum kind { NONE, FILE_, LINKED, EMPTY, FULL, LINK, FIFO, KINDS };

static void
thing(const char *name, enum kind k)
{
	char b[64];

	switch (k) {
	case FILE_:
		PUT(name, name);
		break;
	case LINKED:
		PUT(name, name);
		snprintf(b, sizeof b, "%s.other", name);
		MUST(link(name, b));
		break;
	case EMPTY:
		MUST(mkdir(name, 0755));
		break;
	case FULL:
		MUST(mkdir(name, 0755));
		snprintf(b, sizeof b, "%s/in", name);
		PUT(b, name);
		break;
	case LINK:
		MUST(symlink("target", name));
		break;
	case FIFO:
		MUST(mkfifo(name, 0600));
		break;
	default:
		break;
	}
}

/* What rename says: 0 or an errno. */
static int
verdict(enum kind a, enum kind b, unsigned flags)
{
	bool da = a == EMPTY || a == FULL, db = b == EMPTY || b == FULL;

	if (a == NONE)
		return ENOENT;
	if (flags & RENAME_EXCHANGE)
		return b == NONE ? ENOENT : 0;
	if (b == NONE)
		return 0;
	if (flags & RENAME_NOREPLACE)
		return EEXIST;
	if (da && !db)
		return ENOTDIR;
	if (!da && db)
		return EISDIR;
	return b == FULL ? ENOTEMPTY : 0;
}

static ino_t
ino_of(const char *name)
{
	struct stat st;

	return lstat(name, &st) == 0 ? st.st_ino : 0;
}

static void
rename_all(const char *from, const char *to)
{
	static const unsigned flags[] = { 0, RENAME_NOREPLACE, RENAME_EXCHANGE };
	char other[64];

	for (int a = 0; a < KINDS; a++)
		for (int b = 0; b < KINDS; b++)
			for (int f = 0; f < 3; f++) {
				thing(from, (enum kind)a);
				thing(to, (enum kind)b);
				ino_t ia = ino_of(from), ib = ino_of(to);
				int want =
					verdict((enum kind)a, (enum kind)b, flags[f]);
				int got = renameat2(AT_FDCWD, from, AT_FDCWD, to,
						  flags[f]) == 0
						  ? 0
						  : errno;
				if (got != want)
					ex_die(__FILE__, __LINE__,
						"rename kind %d over %d flags %u: %s, "
						"expected %s",
						a, b, flags[f], strerror(got),
						strerror(want));
				bool moved = want == 0;
				bool swap = flags[f] & RENAME_EXCHANGE;
				SAME(ino_of(from), moved ? (swap ? ib : 0) : ia);
				SAME(ino_of(to), moved ? ia : ib);
				if (moved && a == FULL) {
					snprintf(other, sizeof other, "%s/in", to);
					HOLDS(other, from);
				}
				if (moved && b == LINKED) {
					snprintf(other, sizeof other, "%s.other", to);
					SAME(STAT(other).st_nlink, swap ? 2 : 1);
				}
				REMOVE(from);
				REMOVE(to);
				snprintf(other, sizeof other, "%s.other", from);
				REMOVE(other);
				snprintf(other, sizeof other, "%s.other", to);
				REMOVE(other);
			}
}

CASE(rename_everything_over_everything)
{
	rename_all("from", "to");
}

CASE(rename_across_folders)
{
	MUST(mkdir("x", 0755));
	MUST(mkdir("y", 0755));
	rename_all("x/from", "y/to");
	SAME(STAT("x").st_nlink, 2);
	SAME(STAT("y").st_nlink, 2);
}

CASE(rename_special)
{
	PUT("f", "x");
	MUST(link("f", "g"));
	MUST(rename("f", "g")); /* the same file: nothing happens */
	SAME(STAT("f").st_nlink, 2);
	SAME(STAT("g").st_ino, STAT("f").st_ino);
	MUST(rename("f", "f"));
	MUST(renameat2(AT_FDCWD, "f", AT_FDCWD, "f", RENAME_EXCHANGE));
	FAILS(renameat2(AT_FDCWD, "f", AT_FDCWD, "f", RENAME_NOREPLACE), EEXIST);
	FAILS(renameat2(
		      AT_FDCWD, "f", AT_FDCWD, "h", RENAME_EXCHANGE | RENAME_NOREPLACE),
		EINVAL);
	FAILS(renameat2(AT_FDCWD, "f", AT_FDCWD, "h", 1u << 20), EINVAL);
	MUST(mkdir("d", 0755));
	MUST(mkdir("d/e", 0755));
	MUST(mkdir("d/e/f", 0755));
	FAILS(rename("d", "d/e/x"), EINVAL);
	FAILS(rename("d/e", "d"), ENOTEMPTY);
	FAILS(renameat2(AT_FDCWD, "d", AT_FDCWD, "d/e", RENAME_EXCHANGE), EINVAL);
	FAILS(rename("d/.", "x"), EBUSY);
	FAILS(rename("f", "f/x"), ENOTDIR);
	FAILS(rename("f", "none/x"), ENOENT);
	FAILS(rename("f", "x/"), ENOTDIR);
}

CASE(rename_folders_move_dotdot)
{
	struct stat a, b;

	MUST(mkdir("a", 0755));
	MUST(mkdir("b", 0755));
	MUST(mkdir("a/d", 0755));
	PUT("a/d/f", "x");
	nlink_t na = STAT("a").st_nlink, nb = STAT("b").st_nlink;
	int fd = MUST(open("a/d", O_RDONLY));
	MUST(rename("a/d", "b/d"));
	SAME(STAT("a").st_nlink, na - 1);
	SAME(STAT("b").st_nlink, nb + 1);
	SAME(STAT("b/d/..").st_ino, STAT("b").st_ino);
	MUST(fstatat(fd, "..", &a, 0));
	SAME(a.st_ino, STAT("b").st_ino);
	HOLDS("b/d/f", "x");
	MUST(fstatat(fd, "f", &b, 0));
	SAME(b.st_ino, STAT("b/d/f").st_ino);
	/* the descriptor still makes files where the folder now is */
	int g = MUST(openat(fd, "g", O_CREAT | O_RDWR, 0644));
	SAME(STAT("b/d/g").st_ino, FSTAT(g).st_ino);
	MUST(mkdir("a/x", 0755));
	MUST(renameat2(AT_FDCWD, "a/x", AT_FDCWD, "b/d/f", RENAME_EXCHANGE));
	SAME(STAT("a/x").st_size, 1);
	SAME(STAT("b/d/f/..").st_ino, STAT("b/d").st_ino);
	/* whole trees change places, and paths into them follow at once */
	for (int i = 0; i < 20; i++) {
		MUST(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_EXCHANGE));
		HOLDS(i % 2 ? "a/x" : "b/x", "x");
	}
}

CASE(rename_whiteout)
{
	PUT("f", "x");
	if (renameat2(AT_FDCWD, "f", AT_FDCWD, "g", RENAME_WHITEOUT) != 0) {
		CHECK(errno == EINVAL || errno == EPERM); /* or a clean refusal */
		HOLDS("f", "x");
		return;
	}
	CHECK(S_ISCHR(STAT("f").st_mode));
	SAME(STAT("f").st_rdev, 0);
	HOLDS("g", "x");
}

CASE(long_names)
{
	char name[300], two[300];

	memset(name, 'n', sizeof name);
	memset(two, 'm', sizeof two);
	name[255] = two[255] = '\0';
	PUT(name, "x");
	HOLDS(name, "x");
	MUST(link(name, two));
	MUST(unlink(two));
	MUST(rename(name, two));
	MUST(unlink(two));
	MUST(mkdir(name, 0755));
	MUST(rename(name, two));
	MUST(rmdir(two));
	MUST(symlink("x", name));
	PUT("f", "x");
	name[255] = 'n';
	name[256] = '\0';
	struct stat st;
	FAILS(open(name, O_CREAT | O_RDWR, 0644), ENAMETOOLONG);
	FAILS(mkdir(name, 0755), ENAMETOOLONG);
	FAILS(symlink("x", name), ENAMETOOLONG);
	FAILS(mkfifo(name, 0644), ENAMETOOLONG);
	FAILS(link("f", name), ENAMETOOLONG);
	FAILS(rename("f", name), ENAMETOOLONG);
	FAILS(rename(name, "g"), ENAMETOOLONG);
	FAILS(stat(name, &st), ENAMETOOLONG);
	FAILS(unlink(name), ENAMETOOLONG);
	HOLDS("f", "x");
}

CASE(odd_names)
{
	char name[8] = "", deep[] = "a b/\n/*/\xff\xfe/'\"/-rf";

	for (int c = 1; c < 256; c++) {
		if (c == '/')
			continue;
		for (int n = 1; n <= 3; n++) {
			memset(name, c, (size_t)n);
			name[n] = '\0';
			if (c == '.' && n < 3)
				continue;
			PUT(name, name);
		}
	}
	DIR *d = opendir(".");
	int seen = 0;
	for (struct dirent *e; (e = readdir(d)) != NULL;) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		HOLDS(e->d_name, e->d_name);
		SAME(STAT(e->d_name).st_ino, e->d_ino);
		seen++;
	}
	closedir(d);
	SAME(seen, 254 * 3 - 2);
	TOUCH("Case");
	TOUCH("case");
	CHECK(STAT("Case").st_ino != STAT("case").st_ino);
	MUST(mkdir("deep", 0755));
	MUST(chdir("deep"));
	for (char *p = strtok(deep, "/"); p != NULL; p = strtok(NULL, "/")) {
		MUST(mkdir(p, 0755));
		MUST(chdir(p));
	}
}

CASE(deeper_than_path_max)
{
	char name[101], cwd[PATH_MAX], b[8];
	int at = MUST(open(".", O_RDONLY | O_DIRECTORY)), top = at;

	memset(name, 'd', 100);
	name[100] = '\0';
	for (int i = 0; i < 100; i++) { /* 10,100 bytes */
		MUST(mkdirat(at, name, 0755));
		int next = MUST(openat(at, name, O_RDONLY | O_DIRECTORY));
		struct stat up;
		MUST(fstatat(next, "..", &up, 0));
		SAME(up.st_ino, FSTAT(at).st_ino);
		if (at != top)
			close(at);
		at = next;
	}
	int fd = MUST(openat(at, "f", O_CREAT | O_RDWR, 0644));
	SAME(write(fd, "deep", 4), 4);
	MUST(linkat(at, "f", top, "up", 0));
	SAME(STAT("up").st_ino, FSTAT(fd).st_ino);
	MUST(renameat(at, "f", top, "moved"));
	HOLDS("moved", "deep");
	MUST(renameat(top, "moved", at, "back"));
	MUST(symlinkat("x", at, "l"));
	MUST(mknodat(at, "p", S_IFIFO | 0600, 0));
	MUST(fsync(at));
	SAME(readlinkat(at, "l", b, 8), 1);
	MUST(fchdir(at));
	CHECK(getcwd(cwd, sizeof cwd) == NULL);
	HOLDS("back", "deep");
	MUST(mkdir("here", 0755));
	MUST(unlink("back"));
	MUST(fchdir(top));
}

CASE(exclusive_create)
{
	pid_t pids[8];
	int won[2], n = 0;
	char c;

	TOUCH("f");
	FAILS(open("f", O_CREAT | O_EXCL | O_RDWR, 0644), EEXIST);
	MUST(mkdir("d", 0755));
	FAILS(open("d", O_CREAT | O_EXCL | O_RDWR, 0644), EEXIST);
	for (int round = 0; round < 60; round++) {
		char name[16];
		snprintf(name, sizeof name, "r%d", round);
		MUST(pipe(won));
		for (int i = 0; i < 8; i++) {
			pids[i] = ex_fork();
			if (pids[i] != 0)
				continue;
			int fd = open(name, O_CREAT | O_EXCL | O_RDWR, 0644);
			if (fd >= 0)
				SAME(write(won[1], "w", 1), 1);
			else
				SAME(errno, EEXIST);
			_exit(0);
		}
		for (int i = 0; i < 8; i++)
			JOIN(pids[i]);
		close(won[1]);
		for (n = 0; read(won[0], &c, 1) == 1;)
			n++;
		SAME(n, 1);
		close(won[0]);
	}
}

CASE(negative_names_do_not_stick)
{
	char name[16];
	struct stat st;

	for (int i = 0; i < 300; i++) {
		snprintf(name, sizeof name, "n%d", i);
		FAILS(stat(name, &st), ENOENT);
		switch (i % 6) {
		case 0:
			TOUCH(name);
			break;
		case 1:
			MUST(mkdir(name, 0755));
			break;
		case 2:
			MUST(symlink("x", name));
			break;
		case 3:
			MUST(link("n0", name));
			break;
		case 4:
			TOUCH("tmp");
			MUST(rename("tmp", name));
			break;
		default:
			MUST(mkfifo(name, 0600));
		}
		MUST(lstat(name, &st));
		REMOVE(name);
		FAILS(lstat(name, &st), ENOENT);
		if (i == 0)
			TOUCH(name);
	}
}

CASE(inode_numbers)
{
	enum { N = 1000 };
	static ino_t ino[N];
	char name[16];

	for (int i = 0; i < N; i++) {
		snprintf(name, sizeof name, "f%d", i);
		int fd = MUST(open(name, O_CREAT | O_EXCL | O_RDWR, 0644));
		ino[i] = FSTAT(fd).st_ino;
		close(fd);
	}
	for (int i = 0; i < N; i++) {
		snprintf(name, sizeof name, "f%d", i);
		SAME(STAT(name).st_ino, ino[i]);
		for (int j = 0; j < i; j++)
			CHECK(ino[j] != ino[i]);
		MUST(rename(name, "x"));
		SAME(STAT("x").st_ino, ino[i]);
		MUST(rename("x", name));
	}
	DIR *d = opendir(".");
	for (struct dirent *e; (e = readdir(d)) != NULL;)
		if (e->d_name[0] == 'f')
			SAME(e->d_ino, ino[atoi(e->d_name + 1)]);
	closedir(d);
}

EX_MAIN
