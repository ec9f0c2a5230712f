/*
 * ex_attr - owners, modes, umask, setgid folders, sticky bits, permissions, times, statvfs.
 */
#include "tests/mount/ex.h"

#include <sys/statvfs.h>

static int
make(const char *path, int flags, mode_t mode)
{
	int fd = open(path, O_CREAT | O_RDWR | flags, mode);

	if (fd >= 0)
		close(fd);
	return fd;
}

static mode_t
mode_of(const char *path)
{
	return STAT(path).st_mode & 07777;
}

CASE(modes_and_umask)
{
	static const mode_t masks[] = { 0, 022, 027, 077, 0777, 0111 };
	static const mode_t modes[] = { 0666, 0777, 0600, 0, 0444, 04755, 02755,
		01777 };
	char f[64];

	for (size_t i = 0; i < sizeof masks / sizeof *masks; i++) {
		umask(masks[i]);
		for (size_t j = 0; j < sizeof modes / sizeof *modes; j++) {
			snprintf(f, sizeof f, "f%zu.%zu", i, j);
			MUST(make(f, O_EXCL, modes[j]));
			SAME(mode_of(f), modes[j] & ~masks[i]);
			snprintf(f, sizeof f, "d%zu.%zu", i, j);
			MUST(mkdir(f, modes[j] & 01777));
			SAME(mode_of(f), modes[j] & 01777 & ~masks[i]);
			snprintf(f, sizeof f, "p%zu.%zu", i, j);
			MUST(mkfifo(f, modes[j] & 0777));
			SAME(mode_of(f), modes[j] & 0777 & ~masks[i]);
		}
	}
	MUST(symlink("x", "l"));
	SAME(mode_of("l"), 0777);
}

CASE(owner_is_the_caller)
{
	MUST(chmod(".", 0777));
	AS(UID_A, false)
	{
		MUST(make("f", 0, 0644));
		MUST(mkdir("d", 0755));
		MUST(symlink("f", "l"));
		MUST(mkfifo("p", 0600));
		MUST(make("d/g", 0, 0600));
	}
	static const char *const names[] = { "f", "d", "l", "p", "d/g" };
	for (size_t i = 0; i < 5; i++) {
		SAME(STAT(names[i]).st_uid, UID_A);
		SAME(STAT(names[i]).st_gid, UID_A);
	}
	MUST(make("r", 0, 0644));
	SAME(STAT("r").st_uid, 0);
}

/* The server is many threads: each must take on its own caller and no other. */
CASE(owner_under_concurrency)
{
	pid_t pids[6];
	char f[64];

	MUST(chmod(".", 0777));
	for (int i = 0; i < 6; i++) {
		pids[i] = ex_fork();
		if (pids[i] != 0)
			continue;
		umask(i % 2 ? 027 : 0);
		ex_become(UID_A + (uid_t)i, false);
		for (int n = 0; n < 300; n++) {
			snprintf(f, sizeof f, "%d.%d", i, n);
			MUST(make(f, O_EXCL, 0666));
			SAME(STAT(f).st_uid, UID_A + (uid_t)i);
			SAME(STAT(f).st_gid, UID_A + (uid_t)i);
			SAME(mode_of(f), i % 2 ? 0640 : 0666);
			if (n % 2)
				MUST(unlink(f));
		}
		_exit(0);
	}
	for (int i = 0; i < 6; i++)
		JOIN(pids[i]);
}

CASE(setgid_folder)
{
	MUST(mkdir("d", 0777));
	MUST(chown("d", 0, GID_C));
	MUST(chmod("d", 02777));
	umask(0);
	AS(UID_A, false)
	{
		MUST(make("d/f", 0, 0664));
		MUST(make("d/x", 0, 0775));
		MUST(make("d/s", 0, 02775));
		MUST(mkdir("d/sub", 0755));
		MUST(symlink("x", "d/l"));
		MUST(mkfifo("d/p", 0600));
		MUST(mkdir("d/sub/deeper", 0700));
	}
	SAME(STAT("d/f").st_gid, GID_C);
	SAME(STAT("d/f").st_uid, UID_A);
	SAME(mode_of("d/f"), 0664);
	SAME(mode_of("d/x"), 0775);
	SAME(mode_of("d/s"), 0775); /* not a member of the group: the bit goes */
	SAME(STAT("d/sub").st_gid, GID_C);
	SAME(mode_of("d/sub"), 02755);
	SAME(STAT("d/l").st_gid, GID_C);
	SAME(STAT("d/p").st_gid, GID_C);
	SAME(mode_of("d/sub/deeper"), 02700);
	SAME(STAT("d/sub/deeper").st_gid, GID_C);
	AS(UID_B, true)
	{
		MUST(make("d/member", 0, 02775));
	}
	SAME(STAT("d/member").st_gid, GID_C);
	SAME(mode_of("d/member"), 02775);
}

CASE(chmod_rules)
{
	MUST(make("f", 0, 0644));
	for (mode_t m = 0; m < 010000; m += 0111) {
		MUST(chmod("f", m));
		SAME(mode_of("f"), m);
	}
	int fd = MUST(open("f", O_RDWR));
	MUST(fchmod(fd, 0751));
	SAME(mode_of("f"), 0751);
	MUST(chown("f", UID_A, GID_C));
	MUST(chmod(".", 0777));
	AS(UID_B, false)
	{
		FAILS(chmod("f", 0777), EPERM);
		FAILS(fchmod(fd, 0777), EPERM);
	}
	AS(UID_A, false)
	{
		MUST(chmod("f", 02770)); /* not in that group */
		SAME(mode_of("f"), 0770);
	}
	AS(UID_A, true)
	{
		MUST(chmod("f", 02770));
		SAME(mode_of("f"), 02770);
	}
	MUST(mkdir("d", 0700));
	MUST(chmod("d", 07777));
	SAME(mode_of("d"), 07777);
	MUST(symlink("f", "l"));
	MUST(chmod("l", 0600)); /* follows */
	SAME(mode_of("f"), 0600);
	SAME(mode_of("l"), 0777);
	FAILS(chmod("none", 0600), ENOENT);
}

CASE(chown_rules)
{
	struct stat st;

	MUST(chmod(".", 0777));
	MUST(make("f", 0, 0755));
	MUST(chmod("f", 06755));
	MUST(chown("f", UID_A, UID_A));
	st = STAT("f");
	SAME(st.st_uid, UID_A);
	SAME(st.st_gid, UID_A);
	SAME(st.st_mode & 07777, 0755); /* the bits do not survive a new owner */
	MUST(chown("f", (uid_t)-1, GID_C));
	SAME(STAT("f").st_uid, UID_A);
	SAME(STAT("f").st_gid, GID_C);
	AS(UID_A, false)
	{
		FAILS(chown("f", UID_B, (gid_t)-1), EPERM);
		FAILS(chown("f", (uid_t)-1, UID_B), EPERM);
		MUST(chown("f", (uid_t)-1, UID_A));
	}
	AS(UID_A, true)
	{
		MUST(chmod("f", 06711));
		MUST(chown("f", (uid_t)-1, GID_C)); /* a supplementary group */
		SAME(STAT("f").st_gid, GID_C);
		SAME(mode_of("f"), 0711);
	}
	MUST(symlink("f", "l"));
	MUST(lchown("l", UID_B, UID_B));
	SAME(STAT("l").st_uid, UID_B);
	SAME(STAT("f").st_uid, UID_A);
	MUST(mkdir("d", 0755));
	MUST(chmod("d", 06755));
	MUST(chown("d", UID_A, UID_A));
	SAME(mode_of("d"), 06755); /* a folder keeps them */
	int fd = MUST(open("f", O_RDONLY));
	MUST(fchown(fd, UID_B, UID_B));
	SAME(STAT("f").st_uid, UID_B);
}

CASE(write_drops_setuid)
{
	MUST(chmod(".", 0777));
	PUT("from", "01234");
	for (int how = 0; how < 5; how++) {
		PUT("f", "0123456789");
		MUST(chown("f", UID_A, UID_A));
		MUST(chmod("f", 06777));
		AS(UID_B, false)
		{
			int fd = MUST(open("f", O_RDWR | (how == 2 ? O_TRUNC : 0)));
			if (how == 0)
				SAME(write(fd, "x", 1), 1);
			else if (how == 1)
				MUST(ftruncate(fd, 3));
			else if (how == 3)
				MUST(fallocate(fd, 0, 0, 20));
			else if (how == 4)
				SAME(copy_file_range(MUST(open("from", O_RDONLY)), NULL,
					     fd, NULL, 5, 0),
					5);
		}
		SAME(mode_of("f"), 0777);
		SAME(STAT("f").st_uid, UID_A);
		MUST(unlink("f"));
	}
	PUT("f", "0123456789");
	MUST(chmod("f", 06777));
	int fd = MUST(open("f", O_RDWR));
	SAME(write(fd, "x", 1), 1);
	SAME(mode_of("f"), 06777); /* root keeps them */
}

CASE(sticky_folder)
{
	MUST(mkdir("d", 0777));
	MUST(chmod("d", 01777));
	AS(UID_A, false)
	{
		MUST(make("d/a", 0, 0666));
		MUST(make("d/a2", 0, 0666));
		MUST(mkdir("d/ad", 0777));
	}
	AS(UID_B, false)
	{
		MUST(make("d/b", 0, 0666));
		FAILS(unlink("d/a"), EPERM);
		FAILS(rename("d/a", "d/c"), EPERM);
		FAILS(rename("d/b", "d/a"), EPERM);
		FAILS(rmdir("d/ad"), EPERM);
		MUST(rename("d/b", "d/b2"));
		MUST(unlink("d/b2"));
	}
	AS(UID_A, false)
	{
		MUST(unlink("d/a"));
		MUST(rmdir("d/ad"));
	}
	MUST(chown("d", UID_B, UID_B));
	AS(UID_B, false)
	{
		MUST(unlink("d/a2")); /* the folder's owner may */
	}
}

CASE(permission_checks)
{
	MUST(chmod(".", 0755));
	MUST(mkdir("private", 0700));
	PUT("private/f", "x");
	MUST(chown("private", UID_A, UID_A));
	MUST(chown("private/f", UID_A, UID_A));
	MUST(mkdir("search", 0711));
	PUT("search/f", "x");
	PUT("group", "x");
	MUST(chown("group", UID_A, GID_C));
	MUST(chmod("group", 0640));
	PUT("ro", "x");
	MUST(chmod("ro", 0444));
	PUT("mine", "x");
	MUST(chown("mine", UID_B, UID_B));
	MUST(chmod("mine", 0077)); /* others may, the owner may not */
	AS(UID_B, false)
	{
		struct stat st;
		FAILS(stat("private/f", &st), EACCES);
		FAILS(open("private", O_RDONLY), EACCES);
		FAILS(make("private/g", 0, 0644), EACCES);
		FAILS(open("search", O_RDONLY), EACCES);
		MUST(stat("search/f", &st));
		FAILS(open("group", O_RDONLY), EACCES);
		FAILS(open("ro", O_WRONLY), EACCES);
		FAILS(open("ro", O_RDONLY | O_TRUNC), EACCES);
		FAILS(open("mine", O_RDONLY), EACCES);
		FAILS(truncate("ro", 0), EACCES);
		FAILS(make("f", 0, 0644), EACCES);
		FAILS(mkdir("d", 0755), EACCES);
		FAILS(symlink("x", "l"), EACCES);
		FAILS(unlink("ro"), EACCES);
		FAILS(rename("ro", "ro2"), EACCES);
		FAILS(access("group", R_OK), EACCES);
		MUST(access("ro", R_OK));
		FAILS(access("ro", W_OK), EACCES);
		FAILS(access("ro", X_OK), EACCES);
		FAILS(access("private/f", F_OK), EACCES);
	}
	AS(UID_B, true)
	{
		char c;
		int fd = MUST(open("group", O_RDONLY));
		SAME(read(fd, &c, 1), 1);
		FAILS(open("group", O_WRONLY), EACCES);
		MUST(access("group", R_OK));
	}
	MUST(access("private/f", R_OK | W_OK)); /* root */
	FAILS(access("ro", X_OK), EACCES);
	int fd = MUST(open("ro", O_WRONLY));
	SAME(write(fd, "y", 1), 1);
}

/* A folder writable through a supplementary group only: the server does not know it. */
CASE(create_by_supplementary_group)
{
	MUST(mkdir("d", 0770));
	MUST(chown("d", 0, GID_C));
	MUST(chmod("d", 0770));
	AS(UID_B, false)
	{
		FAILS(make("d/f", 0, 0644), EACCES);
	}
	AS(UID_B, true)
	{
		MUST(make("d/f", 0, 0644));
		MUST(mkdir("d/d", 0755));
		MUST(symlink("x", "d/l"));
		MUST(mkfifo("d/p", 0600));
		MUST(link("d/f", "d/g"));
		MUST(rename("d/g", "d/h"));
		MUST(unlink("d/h"));
		SAME(STAT("d/f").st_uid, UID_B);
		SAME(STAT("d/f").st_gid, UID_B);
		MUST(rmdir("d/d"));
	}
}

/* The descriptor that made a file may write it, whatever the mode says. */
CASE(create_readonly_and_write)
{
	MUST(chmod(".", 0777));
	AS(UID_A, false)
	{
		static const mode_t modes[] = { 0444, 0, 0200, 0111 };
		for (size_t i = 0; i < 4; i++) {
			char f[16];
			snprintf(f, sizeof f, "f%zu", i);
			int fd = MUST(open(f, O_CREAT | O_EXCL | O_RDWR, modes[i]));
			SAME(write(fd, "hello", 5), 5);
			MUST(ftruncate(fd, 3));
			char b[8];
			SAME(pread(fd, b, 8, 0), 3);
			MUST(fsync(fd));
			MUST(close(fd));
			if (modes[i] != 0200)
				FAILS(open(f, O_WRONLY), EACCES);
		}
		/* and one opened before the mode was taken away */
		int fd = MUST(open("g", O_CREAT | O_RDWR, 0600));
		MUST(fchmod(fd, 0));
		SAME(write(fd, "hello", 5), 5);
		MUST(ftruncate(fd, 100));
		SAME(lseek(fd, 0, SEEK_SET), 0);
		char b[200];
		SAME(read(fd, b, 200), 100);
	}
}

static void
set_times(const char *path, int64_t as, long an, int64_t ms, long mn)
{
	struct timespec ts[2] = { { as, an }, { ms, mn } };

	MUST(utimensat(AT_FDCWD, path, ts, AT_SYMLINK_NOFOLLOW));
}

CASE(utimens)
{
	struct stat st, before;

	TOUCH("f");
	set_times("f", 1000000001, 123456789, 1200000002, 987654321);
	st = STAT("f");
	SAME(st.st_atim.tv_sec, 1000000001);
	SAME(st.st_atim.tv_nsec, 123456789);
	SAME(st.st_mtim.tv_sec, 1200000002);
	SAME(st.st_mtim.tv_nsec, 987654321);
	before = st;
	set_times("f", 0, UTIME_OMIT, 5, 6);
	st = STAT("f");
	SAME(st.st_atim.tv_sec, 1000000001);
	SAME(st.st_mtim.tv_sec, 5);
	SAME(st.st_mtim.tv_nsec, 6);
	set_times("f", 7, 8, 0, UTIME_OMIT);
	st = STAT("f");
	SAME(st.st_atim.tv_sec, 7);
	SAME(st.st_mtim.tv_sec, 5);
	ex_tick();
	set_times("f", 0, UTIME_NOW, 0, UTIME_OMIT);
	st = STAT("f");
	CHECK(ex_cmp(st.st_atim, before.st_ctim) > 0);
	SAME(st.st_mtim.tv_sec, 5);
	ex_tick();
	set_times("f", 0, UTIME_OMIT, 0, UTIME_NOW);
	CHECK(ex_cmp(STAT("f").st_mtim, st.st_atim) > 0);
	SAME(ex_cmp(STAT("f").st_atim, st.st_atim), 0);
	st = STAT("f");
	ex_tick();
	set_times("f", 0, UTIME_OMIT, 0, UTIME_OMIT);
	SAME(ex_cmp(STAT("f").st_ctim, st.st_ctim), 0);
	set_times("f", 1, 2, 3, 4);
	CHECK(ex_cmp(STAT("f").st_ctim, st.st_ctim) > 0);
	/* far away, and before the epoch */
	set_times("f", 8589934592LL, 1, -86400, 2);
	SAME(STAT("f").st_atim.tv_sec, 8589934592LL);
	SAME(STAT("f").st_mtim.tv_sec, -86400);
	SAME(STAT("f").st_mtim.tv_nsec, 2);
	/* by descriptor, even a read-only one, and on other kinds */
	int fd = MUST(open("f", O_RDONLY));
	struct timespec ts[2] = { { 11, 0 }, { 12, 0 } };
	MUST(futimens(fd, ts));
	SAME(STAT("f").st_mtim.tv_sec, 12);
	MUST(symlink("f", "l"));
	set_times("l", 21, 0, 22, 0);
	SAME(STAT("l").st_mtim.tv_sec, 22);
	SAME(STAT("f").st_mtim.tv_sec, 12);
	MUST(mkdir("d", 0755));
	set_times("d", 31, 0, 32, 33);
	SAME(STAT("d").st_mtim.tv_sec, 32);
	MUST(mkfifo("p", 0600));
	set_times("p", 41, 0, 42, 0);
	SAME(STAT("p").st_mtim.tv_sec, 42);
	MUST(link("f", "g"));
	set_times("g", 51, 0, 52, 0);
	SAME(STAT("f").st_mtim.tv_sec, 52);
	/* the mtime of written data can be set with the file still open */
	fd = MUST(open("w", O_CREAT | O_RDWR, 0644));
	SAME(write(fd, "abc", 3), 3);
	MUST(futimens(fd, ts));
	MUST(close(fd));
	SAME(STAT("w").st_mtim.tv_sec, 12);
	HOLDS("w", "abc");
	SAME(STAT("w").st_mtim.tv_sec, 12);
}

CASE(utimens_permission)
{
	struct timespec explicit[2] = { { 1, 0 }, { 2, 0 } };
	struct timespec now[2] = { { 0, UTIME_NOW }, { 0, UTIME_NOW } };

	TOUCH("w");
	MUST(chmod("w", 0666));
	TOUCH("r");
	AS(UID_A, false)
	{
		FAILS(utimensat(AT_FDCWD, "w", explicit, 0), EPERM);
		MUST(utimensat(AT_FDCWD, "w", now, 0));
		MUST(utimensat(AT_FDCWD, "w", NULL, 0));
		FAILS(utimensat(AT_FDCWD, "r", now, 0), EACCES);
		FAILS(utimensat(AT_FDCWD, "r", explicit, 0), EPERM);
	}
	MUST(chown("r", UID_A, UID_A));
	MUST(chmod("r", 0));
	AS(UID_A, false)
	{
		MUST(utimensat(AT_FDCWD, "r", now, 0));
		MUST(utimensat(AT_FDCWD, "r", explicit, 0));
	}
	SAME(STAT("r").st_mtim.tv_sec, 2);
}

/* What an operation must stamp: m and c of the folder, m and c of the file. */
#define STAMPED(file, want_m, want_c) \
	do { \
		struct stat ex_n = STAT(file); \
		SAME(ex_cmp(ex_n.st_mtim, was.st_mtim) > 0, want_m); \
		SAME(ex_cmp(ex_n.st_ctim, was.st_ctim) > 0, want_c); \
	} while (0)
#define BEFORE(file) \
	do { \
		was = STAT(file); \
		ex_tick(); \
	} while (0)

CASE(times_of_the_folder)
{
	struct stat was;

	MUST(mkdir("d", 0755));
	MUST(mkdir("e", 0755));
	BEFORE("d");
	TOUCH("d/f");
	STAMPED("d", 1, 1);
	BEFORE("d");
	PUT("d/f", "written, and the folder does not care");
	STAMPED("d", 0, 0);
	BEFORE("d");
	MUST(link("d/f", "d/g"));
	STAMPED("d", 1, 1);
	BEFORE("d");
	MUST(symlink("f", "d/l"));
	STAMPED("d", 1, 1);
	BEFORE("d");
	MUST(mkdir("d/s", 0755));
	STAMPED("d", 1, 1);
	BEFORE("d");
	MUST(mkfifo("d/p", 0600));
	STAMPED("d", 1, 1);
	BEFORE("d");
	MUST(rename("d/f", "d/f2"));
	STAMPED("d", 1, 1);
	BEFORE("d");
	FAILS(link("d/g", "d/f2"), EEXIST);
	FAILS(mkdir("d/s", 0755), EEXIST);
	STAMPED("d", 0, 0);
	BEFORE("e");
	MUST(rename("d/f2", "e/f2"));
	STAMPED("e", 1, 1);
	BEFORE("d");
	MUST(rename("e/f2", "d/f2"));
	STAMPED("d", 1, 1);
	BEFORE("d");
	MUST(unlink("d/f2"));
	STAMPED("d", 1, 1);
	BEFORE("d");
	MUST(rmdir("d/s"));
	STAMPED("d", 1, 1);
	BEFORE("d");
	MUST(renameat2(AT_FDCWD, "d/l", AT_FDCWD, "e/x", 0));
	STAMPED("d", 1, 1);
	BEFORE("d");
	MUST(chmod("d", 0700));
	STAMPED("d", 0, 1);
}

CASE(times_of_the_file)
{
	struct stat was;
	char b[4];

	TOUCH("f");
	BEFORE("f");
	PUT("f", "abc");
	STAMPED("f", 1, 1);
	BEFORE("f");
	HOLDS("f", "abc");
	STAMPED("f", 0, 0);
	BEFORE("f");
	MUST(chmod("f", 0600));
	STAMPED("f", 0, 1);
	BEFORE("f");
	MUST(chown("f", UID_A, UID_A));
	STAMPED("f", 0, 1);
	BEFORE("f");
	MUST(link("f", "g"));
	STAMPED("f", 0, 1);
	BEFORE("f");
	MUST(rename("g", "h"));
	STAMPED("f", 0, 1);
	BEFORE("f");
	MUST(unlink("h"));
	STAMPED("f", 0, 1);
	BEFORE("f");
	MUST(truncate("f", 2));
	STAMPED("f", 1, 1);
	int fd = MUST(open("f", O_RDWR));
	BEFORE("f");
	MUST(ftruncate(fd, 2));
	STAMPED("f", 1, 1);
	BEFORE("f");
	SAME(pwrite(fd, "z", 1, 0), 1);
	STAMPED("f", 1, 1);
	BEFORE("f");
	SAME(pread(fd, b, 4, 0), 2);
	SAME(pwrite(fd, "z", 0, 0), 0);
	STAMPED("f", 0, 0);
	BEFORE("f");
	MUST(fallocate(fd, 0, 0, 5000));
	STAMPED("f", 1, 1);
	/* through the descriptor as through the name */
	CHECK(ex_cmp(FSTAT(fd).st_mtim, STAT("f").st_mtim) == 0);
	/* an overwritten file that is still open hears of it */
	TOUCH("n");
	struct stat a = FSTAT(fd);
	ex_tick();
	MUST(rename("n", "f"));
	CHECK(ex_cmp(FSTAT(fd).st_ctim, a.st_ctim) > 0);
	SAME(FSTAT(fd).st_nlink, 0);
}

CASE(link_counts)
{
	struct stat st = STAT(".");
	nlink_t was = st.st_nlink;

	MUST(mkdir("d", 0755));
	SAME(STAT(".").st_nlink, was + 1);
	SAME(STAT("d").st_nlink, 2);
	MUST(mkdir("d/e", 0755));
	SAME(STAT("d").st_nlink, 3);
	MUST(rename("d/e", "e"));
	SAME(STAT("d").st_nlink, 2);
	SAME(STAT(".").st_nlink, was + 2);
	MUST(rmdir("e"));
	MUST(rmdir("d"));
	SAME(STAT(".").st_nlink, was);
	char b[16];
	TOUCH("f");
	for (int i = 0; i < 200; i++) {
		snprintf(b, sizeof b, "l%d", i);
		MUST(link("f", b));
	}
	SAME(STAT("f").st_nlink, 201);
	SAME(STAT("l77").st_nlink, 201);
	for (int i = 0; i < 200; i++) {
		snprintf(b, sizeof b, "l%d", i);
		MUST(unlink(b));
	}
	SAME(STAT("f").st_nlink, 1);
}

CASE(statvfs_is_sane)
{
	struct statvfs v;

	MUST(statvfs(".", &v));
	CHECK(v.f_blocks > 0 && v.f_bfree <= v.f_blocks && v.f_bavail <= v.f_bfree);
	CHECK(v.f_files > 0 && v.f_ffree <= v.f_files);
	CHECK(v.f_bsize >= 512 && v.f_frsize >= 512);
	SAME(v.f_namemax, 255);
	int fd = MUST(open(".", O_RDONLY));
	struct statvfs w;
	MUST(fstatvfs(fd, &w));
	SAME(w.f_blocks, v.f_blocks);
	CHECK(STAT(".").st_blksize >= 4096);
}

CASE(device_number_is_one)
{
	dev_t dev = STAT(".").st_dev;

	MUST(mkdir("d", 0755));
	TOUCH("d/f");
	MUST(symlink("f", "d/l"));
	SAME(STAT("d").st_dev, dev);
	SAME(STAT("d/f").st_dev, dev);
	SAME(STAT("d/l").st_dev, dev);
	int fd = MUST(open("d/f", O_RDONLY));
	SAME(FSTAT(fd).st_dev, dev);
}

EX_MAIN
