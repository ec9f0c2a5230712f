/*
 * ex_open - open files: unlinked, renamed, overwritten, truncated, appended to, nameless.
 */
#include "tests/mount/ex.h"

#include <sys/mman.h>
#include <sys/uio.h>

/* All that a descriptor can do still works, and shows what. */
static void
usable(int fd, const char *what, nlink_t nlink)
{
	char b[64];
	size_t n = strlen(what);
	struct timespec ts[2] = { { 5, 0 }, { 6, 0 } };

	SAME(FSTAT(fd).st_nlink, nlink);
	SAME(pread(fd, b, sizeof b, 0), n);
	SAME(memcmp(b, what, n), 0);
	SAME(pwrite(fd, "+", 1, (off_t)n), 1);
	SAME(FSTAT(fd).st_size, n + 1);
	SAME(pread(fd, b, sizeof b, 0), n + 1);
	MUST(ftruncate(fd, (off_t)n));
	SAME(FSTAT(fd).st_size, n);
	MUST(fchmod(fd, 0600));
	SAME(FSTAT(fd).st_mode & 07777, 0600);
	MUST(fchown(fd, UID_A, UID_A));
	SAME(FSTAT(fd).st_uid, UID_A);
	MUST(futimens(fd, ts));
	SAME(FSTAT(fd).st_mtim.tv_sec, 6);
	MUST(fsync(fd));
	MUST(fdatasync(fd));
	MUST(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 8192));
	SAME(FSTAT(fd).st_size, n);
	char *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(m != MAP_FAILED);
	SAME(memcmp(m, what, n), 0);
	m[0] ^= 1;
	MUST(msync(m, 4096, MS_SYNC));
	SAME(pread(fd, b, 1, 0), 1);
	SAME(b[0], what[0] ^ 1);
	m[0] ^= 1;
	MUST(munmap(m, 4096));
}

CASE(unlink_while_open)
{
	char path[64];
	struct stat st;

	PUT("f", "content");
	int fd = MUST(open("f", O_RDWR));
	int rd = MUST(open("f", O_RDONLY));
	ino_t ino = FSTAT(fd).st_ino;
	MUST(unlink("f"));
	FAILS(stat("f", &st), ENOENT);
	usable(fd, "content", 0);
	SAME(FSTAT(fd).st_ino, ino);
	SAME(FSTAT(rd).st_ino, ino);
	MUST(fsync(rd));
	/* the name may be made anew; the two have nothing in common */
	PUT("f", "other");
	CHECK(STAT("f").st_ino != ino);
	usable(fd, "content", 0);
	HOLDS("f", "other");
	/* and it can be opened again through the descriptor */
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	int again = MUST(open(path, O_RDWR));
	usable(again, "content", 0);
	close(fd);
	close(rd);
	usable(again, "content", 0);
	/* no debris: a folder whose files are all unlinked while open goes */
	MUST(mkdir("d", 0755));
	fd = MUST(open("d/f", O_CREAT | O_RDWR, 0644));
	SAME(write(fd, "deep", 4), 4);
	MUST(unlink("d/f"));
	MUST(rmdir("d"));
	usable(fd, "deep", 0);
}

CASE(unlink_one_of_two_names)
{
	PUT("f", "content");
	MUST(link("f", "g"));
	int fd = MUST(open("f", O_RDWR));
	MUST(unlink("f"));
	usable(fd, "content", 1);
	HOLDS("g", "content");
	MUST(unlink("g"));
	usable(fd, "content", 0);
}

CASE(rename_over_open)
{
	char b[16];

	PUT("index", "old");
	int fd = MUST(open("index", O_RDWR));
	char *m = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	CHECK(m != MAP_FAILED);
	ino_t ino = FSTAT(fd).st_ino;
	for (int i = 0; i < 100; i++) {
		PUT("index.NEW", "newer");
		ino_t new = STAT("index.NEW").st_ino;
		CHECK(new != ino); /* FT9 */
		MUST(rename("index.NEW", "index"));
		SAME(STAT("index").st_ino, new);
		HOLDS("index", "newer");
		SAME(FSTAT(fd).st_ino, ino);
		SAME(FSTAT(fd).st_nlink, 0);
		SAME(pread(fd, b, sizeof b, 0), 3);
		SAME(memcmp(b, "old", 3), 0);
		SAME(memcmp(m, "old", 3), 0);
	}
	usable(fd, "old", 0);
}

/* A number that an open file still has is given to nobody else. */
CASE(no_number_twice_while_open)
{
	enum { OPEN = 50, NEW = 3000 };
	int fds[OPEN];
	ino_t inos[OPEN];
	char name[16];

	for (int i = 0; i < OPEN; i++) {
		snprintf(name, sizeof name, "o%d", i);
		fds[i] = MUST(open(name, O_CREAT | O_RDWR, 0644));
		SAME(write(fds[i], name, strlen(name)), strlen(name));
		inos[i] = FSTAT(fds[i]).st_ino;
		if (i % 2)
			MUST(unlink(name));
		else {
			TOUCH("x");
			MUST(rename("x", name));
			MUST(unlink(name));
		}
	}
	for (int n = 0; n < NEW; n++) {
		int fd = MUST(open("new", O_CREAT | O_EXCL | O_RDWR, 0644));
		ino_t ino = FSTAT(fd).st_ino;
		for (int i = 0; i < OPEN; i++)
			CHECK(ino != inos[i]);
		MUST(unlink("new"));
		close(fd);
	}
	for (int i = 0; i < OPEN; i++) {
		char b[16];
		snprintf(name, sizeof name, "o%d", i);
		SAME(FSTAT(fds[i]).st_ino, inos[i]);
		SAME(pread(fds[i], b, sizeof b, 0), strlen(name));
		SAME(memcmp(b, name, strlen(name)), 0);
	}
}

CASE(renamed_while_open)
{
	PUT("f", "content");
	int fd = MUST(open("f", O_RDWR));
	MUST(mkdir("d", 0755));
	MUST(rename("f", "d/g"));
	usable(fd, "content", 1);
	SAME(STAT("d/g").st_ino, FSTAT(fd).st_ino);
	PUT("f", "other");
	MUST(renameat2(AT_FDCWD, "f", AT_FDCWD, "d/g", RENAME_EXCHANGE));
	usable(fd, "content", 1);
	HOLDS("f", "content");
	HOLDS("d/g", "other");
	MUST(rename("d", "e"));
	HOLDS("e/g", "other");
}

/* O_TRUNC as the first open that the server sees of a file, and as a later one. */
CASE(truncate_at_open)
{
	PUT("f", "sixteen bytes...");
	for (int round = 0; round < 3; round++) {
		int fd = MUST(open("f", O_WRONLY | O_TRUNC));
		SAME(FSTAT(fd).st_size, 0);
		SAME(write(fd, "xy", 2), 2);
		close(fd);
		HOLDS("f", "xy");
		fd = MUST(open("f", O_RDWR | O_CREAT | O_TRUNC, 0600));
		HOLDS("f", "");
		SAME(write(fd, "a longer text than before", 25), 25);
		int other = MUST(open("f", O_WRONLY | O_TRUNC)); /* while open */
		SAME(FSTAT(fd).st_size, 0);
		SAME(write(other, "z", 1), 1);
		HOLDS("f", "z");
		SAME(pwrite(fd, "!", 1, 5), 1);
		char b[8];
		SAME(pread(other, b, 8, 0), -1);
		SAME(errno, EBADF);
		SAME(pread(fd, b, 8, 0), 6);
		SAME(memcmp(b, "z\0\0\0\0!", 6), 0);
		close(fd);
		close(other);
		pid_t pid = ex_fork();
		if (pid == 0) {
			fd = MUST(creat("f", 0644));
			SAME(write(fd, "from another", 12), 12);
			_exit(0);
		}
		JOIN(pid);
		HOLDS("f", "from another");
	}
	int fd = MUST(open("f", O_RDONLY | O_TRUNC));
	SAME(FSTAT(fd).st_size, 0);
}

CASE(append_from_many)
{
	enum { PROCS = 6, LINES = 400 };
	pid_t pids[PROCS];
	char line[64], want[64];
	int next[PROCS] = { 0 };

	TOUCH("f");
	for (int i = 0; i < PROCS; i++) {
		pids[i] = ex_fork();
		if (pids[i] != 0)
			continue;
		int fd = MUST(open("f", O_WRONLY | O_APPEND));
		for (int n = 0; n < LINES; n++) {
			snprintf(line, sizeof line, "%d %05d", i, n);
			memset(line + 7, '.', 24);
			line[31] = '\n';
			SAME(write(fd, line, 32), 32);
		}
		_exit(0);
	}
	for (int i = 0; i < PROCS; i++)
		JOIN(pids[i]);
	SAME(STAT("f").st_size, PROCS * LINES * 32);
	FILE *f = fopen("f", "r");
	while (fgets(line, sizeof line, f) != NULL) {
		int i = line[0] - '0';
		CHECK(i >= 0 && i < PROCS);
		snprintf(want, sizeof want, "%d %05d.", i, next[i]++);
		SAME(strncmp(line, want, 8), 0);
	}
	for (int i = 0; i < PROCS; i++)
		SAME(next[i], LINES);
	fclose(f);
}

CASE(append_semantics)
{
	PUT("f", "0123");
	int fd = MUST(open("f", O_RDWR | O_APPEND));
	SAME(lseek(fd, 0, SEEK_SET), 0);
	SAME(write(fd, "4", 1), 1);
	HOLDS("f", "01234");
	SAME(lseek(fd, 0, SEEK_CUR), 5);
	SAME(pwrite(fd, "5", 1, 0), 1); /* Linux appends all the same */
	HOLDS("f", "012345");
	MUST(fcntl(fd, F_SETFL, 0));
	SAME(pwrite(fd, "X", 1, 0), 1);
	HOLDS("f", "X12345");
	MUST(fcntl(fd, F_SETFL, O_APPEND));
	MUST(truncate("f", 2));
	SAME(write(fd, "Y", 1), 1);
	HOLDS("f", "X1Y");
	int rw = MUST(open("f", O_RDWR));
	struct iovec v = { (char[]){ 'Z' }, 1 };
	SAME(pwritev2(rw, &v, 1, -1, RWF_APPEND), 1);
	HOLDS("f", "X1YZ");
}

CASE(access_modes)
{
	char b[4];

	PUT("f", "x");
	int r = MUST(open("f", O_RDONLY)), w = MUST(open("f", O_WRONLY));
	FAILS(write(r, "y", 1), EBADF);
	FAILS(read(w, b, 1), EBADF);
	FAILS(ftruncate(r, 0), EINVAL);
	int p = MUST(open("f", O_PATH));
	FAILS(read(p, b, 1), EBADF);
	SAME(FSTAT(p).st_size, 1);
	FAILS(fchmod(p, 0600), EBADF);
	FAILS(open("f", O_RDONLY | O_DIRECTORY), ENOTDIR);
	/* a child has the same offset, a second open its own */
	PUT("g", "abcdef");
	int g = MUST(open("g", O_RDONLY)), h = MUST(open("g", O_RDONLY));
	pid_t pid = ex_fork();
	if (pid == 0) {
		SAME(read(g, b, 2), 2);
		_exit(0);
	}
	JOIN(pid);
	SAME(read(g, b, 1), 1);
	SAME(b[0], 'c');
	SAME(read(h, b, 1), 1);
	SAME(b[0], 'a');
}

CASE(execute)
{
	char buf[65536], cmd[64];
	int in = MUST(open("/bin/true", O_RDONLY));
	int out = MUST(open("prog", O_CREAT | O_WRONLY, 0755));

	for (ssize_t n; (n = read(in, buf, sizeof buf)) > 0;)
		SAME(write(out, buf, (size_t)n), n);
	close(out);
	SAME(system("./prog"), 0);
	PUT("script", "#!/bin/sh\nexit 3\n");
	MUST(chmod("script", 0755));
	SAME(WEXITSTATUS(system("./script")), 3);
	MUST(chmod("script", 0644));
	snprintf(cmd, sizeof cmd, "./script 2>/dev/null");
	SAME(WEXITSTATUS(system(cmd)), 126);
}

CASE(tmpfile)
{
	char path[64];
	int fd = open(".", O_TMPFILE | O_RDWR, 0640);

	if (fd < 0) {
		/* refused, and in the way that programs expect */
		CHECK(errno == EOPNOTSUPP);
		return;
	}
	SAME(FSTAT(fd).st_nlink, 0);
	SAME(FSTAT(fd).st_mode & 07777, 0640);
	SAME(write(fd, "nameless", 8), 8);
	usable(fd, "nameless", 0);
	DIR *d = opendir(".");
	int n = 0;
	while (readdir(d) != NULL)
		n++;
	closedir(d);
	SAME(n, 2);
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	MUST(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
	HOLDS("named", "nameless");
	SAME(STAT("named").st_ino, FSTAT(fd).st_ino);
	usable(fd, "nameless", 1);
	MUST(unlink("named"));
	usable(fd, "nameless", 0);
	fd = MUST(open(".", O_TMPFILE | O_RDWR | O_EXCL, 0640));
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	FAILS(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW), ENOENT);
	FAILS(open(".", O_TMPFILE | O_RDONLY, 0640), EINVAL);
	MUST(chmod(".", 0777));
	AS(UID_A, false)
	{
		fd = MUST(open(".", O_TMPFILE | O_RDWR, 0600));
		SAME(FSTAT(fd).st_uid, UID_A);
	}
	/* many at once */
	for (int i = 0; i < 100; i++) {
		fd = MUST(open(".", O_TMPFILE | O_RDWR, 0600));
		SAME(write(fd, &i, sizeof i), sizeof i);
		snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		char name[16];
		snprintf(name, sizeof name, "t%d", i);
		MUST(linkat(AT_FDCWD, path, AT_FDCWD, name, AT_SYMLINK_FOLLOW));
		close(fd);
		SAME(STAT(name).st_size, sizeof i);
	}
}

/* A file left without a name and then closed gives its room back. */
CASE(unlinked_gives_room_back)
{
	static char block[1 << 20];

	memset(block, 7, sizeof block);
	for (int i = 0; i < 40; i++) {
		int fd = MUST(open("f", O_CREAT | O_EXCL | O_RDWR, 0644));
		SAME(write(fd, block, sizeof block), sizeof block);
		MUST(unlink("f"));
		SAME(FSTAT(fd).st_size, sizeof block);
		close(fd);
	}
}

EX_MAIN
