/*
 * ex_map - mappings, shared and past the end of the file (FT1, FT2), and the page cache's
 * agreement with read, write and truncate.
 */
#include "tests/mount/ex.h"

#include <setjmp.h>
#include <sys/mman.h>

#define PAGE 4096

static sigjmp_buf bus_back;

static void
on_bus(int sig)
{
	(void)sig;
	siglongjmp(bus_back, 1);
}

/* Whether reading a byte raises SIGBUS. */
static bool
buses(volatile const char *p)
{
	struct sigaction was, sa = { .sa_handler = on_bus };
	volatile bool hit = false;

	sigaction(SIGBUS, &sa, &was);
	if (sigsetjmp(bus_back, 1) == 0)
		(void)*p;
	else
		hit = true;
	sigaction(SIGBUS, &was, NULL);
	return hit;
}

static char *
map(int fd, size_t n, int prot, int flags)
{
	char *m = mmap(NULL, n, prot, flags, fd, 0);

	if (m == MAP_FAILED)
		ex_die(__FILE__, __LINE__, "mmap: %s", strerror(errno));
	return m;
}

CASE(write_is_seen_in_a_mapping)
{
	PUT("f", "before");
	int fd = MUST(open("f", O_RDWR));
	int rd = MUST(open("f", O_RDONLY));
	char *m = map(rd, PAGE, PROT_READ, MAP_SHARED);
	SAME(memcmp(m, "before", 6), 0);
	SAME(pwrite(fd, "AFTER!", 6, 0), 6);
	SAME(memcmp(m, "AFTER!", 6), 0);
	pid_t pid = ex_fork();
	if (pid == 0) {
		int w = MUST(open("f", O_WRONLY));
		SAME(pwrite(w, "child.", 6, 0), 6);
		_exit(0);
	}
	JOIN(pid);
	SAME(memcmp(m, "child.", 6), 0);
	int ap = MUST(open("f", O_WRONLY | O_APPEND));
	SAME(write(ap, "tail", 4), 4);
	SAME(memcmp(m, "child.tail\0", 11), 0);
	MUST(close(rd)); /* the mapping lives on */
	SAME(pwrite(fd, "X", 1, 0), 1);
	SAME(m[0], 'X');
}

/*
 * What Cyrus does to every index: it maps more than there is, another process appends by
 * write(2), and the new bytes must be in the old mapping, record after record.
 */
CASE(mapping_past_the_end_grows)
{
	enum { REC = 112, N = 400, MAP = 64 * 1024 };
	char rec[REC];
	int go[2], done[2];
	char c;

	PUT("f", "");
	MUST(pipe(go));
	MUST(pipe(done));
	pid_t pid = ex_fork();
	if (pid == 0) {
		int w = MUST(open("f", O_RDWR));
		for (int i = 0; i < N; i++) {
			SAME(read(go[0], &c, 1), 1);
			memset(rec, 'A' + i % 26, REC);
			SAME(pwrite(w, rec, REC, i * REC), REC);
			SAME(write(done[1], "d", 1), 1);
		}
		_exit(0);
	}
	int fd = MUST(open("f", O_RDONLY));
	char *m = map(fd, MAP, PROT_READ, MAP_SHARED);
	for (int i = 0; i < N; i++) {
		SAME(write(go[1], "g", 1), 1);
		SAME(read(done[0], &c, 1), 1);
		SAME(FSTAT(fd).st_size, (i + 1) * REC);
		for (int k = 0; k < REC; k++)
			SAME(m[i * REC + k], 'A' + i % 26);
		if (((i + 1) * REC) % PAGE != 0)
			SAME(m[(i + 1) * REC], 0);
	}
	JOIN(pid);
}

CASE(bus_error_past_the_end)
{
	char b[PAGE];

	memset(b, 'x', sizeof b);
	int fd = MUST(open("f", O_CREAT | O_RDWR, 0644));
	SAME(write(fd, b, 100), 100);
	char *m = map(fd, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
	SAME(m[99], 'x');
	SAME(m[100], 0);
	CHECK(buses(m + PAGE));
	MUST(ftruncate(fd, 3 * PAGE));
	CHECK(!buses(m + PAGE));
	SAME(m[PAGE], 0);
	SAME(pwrite(fd, b, PAGE, PAGE), PAGE);
	SAME(m[PAGE], 'x');
	MUST(ftruncate(fd, 100));
	CHECK(buses(m + PAGE));
	MUST(ftruncate(fd, 2 * PAGE));
	SAME(m[PAGE], 0); /* what was cut does not come back */
}

CASE(mapping_writes_reach_the_file)
{
	enum { SIZE = 10 * PAGE };
	static char b[SIZE];

	int fd = MUST(open("f", O_CREAT | O_RDWR, 0644));
	MUST(ftruncate(fd, SIZE));
	char *m = map(fd, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED);
	for (int i = 0; i < SIZE; i++)
		m[i] = (char)(i * 7 + i / PAGE);
	SAME(pread(fd, b, SIZE, 0), SIZE);
	SAME(memcmp(m, b, SIZE), 0);
	MUST(msync(m, SIZE, MS_SYNC));
	pid_t pid = ex_fork();
	if (pid == 0) {
		int rd = MUST(open("f", O_RDONLY));
		SAME(pread(rd, b, SIZE, 0), SIZE);
		SAME(memcmp(m, b, SIZE), 0);
		char *n = map(rd, SIZE, PROT_READ, MAP_SHARED);
		SAME(memcmp(m, n, SIZE), 0);
		m[5] = 'c';
		_exit(0);
	}
	JOIN(pid);
	SAME(m[5], 'c');
	SAME(pread(fd, b, 6, 0), 6);
	SAME(b[5], 'c');
	/* unmapped and closed without a sync, then read afresh */
	m[PAGE] = 'z';
	MUST(munmap(m, SIZE));
	MUST(close(fd));
	fd = MUST(open("f", O_RDONLY));
	SAME(pread(fd, b, 1, PAGE), 1);
	SAME(b[0], 'z');
	struct stat st = FSTAT(fd);
	SAME(st.st_size, SIZE);
}

CASE(mapping_write_moves_mtime)
{
	PUT("f", "0123456789");
	int fd = MUST(open("f", O_RDWR));
	char *m = map(fd, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
	struct stat was = FSTAT(fd);
	ex_tick();
	m[0] = 'x';
	MUST(msync(m, PAGE, MS_SYNC));
	CHECK(ex_cmp(FSTAT(fd).st_mtim, was.st_mtim) > 0);
	MUST(munmap(m, PAGE));
	HOLDS("f", "x123456789"); /* the rest of the page stays out */
}

CASE(private_mapping)
{
	PUT("f", "original");
	int fd = MUST(open("f", O_RDWR));
	char *m = map(fd, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	m[0] = 'X';
	HOLDS("f", "original");
	SAME(m[0], 'X');
	SAME(m[1], 'r');
	int rd = MUST(open("f", O_RDONLY));
	CHECK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, rd, 0) ==
			MAP_FAILED &&
		errno == EACCES);
	MUST(munmap(m, PAGE));
}

CASE(mapping_outlives_the_name)
{
	PUT("f", "still here");
	int fd = MUST(open("f", O_RDWR));
	char *m = map(fd, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
	MUST(unlink("f"));
	MUST(close(fd));
	SAME(memcmp(m, "still here", 10), 0);
	MUST(madvise(m, PAGE, MADV_DONTNEED)); /* read again from the file */
	SAME(memcmp(m, "still here", 10), 0);
	m[0] = 'S';
	MUST(msync(m, PAGE, MS_SYNC));
	MUST(madvise(m, PAGE, MADV_DONTNEED));
	SAME(memcmp(m, "Still here", 10), 0);
}

CASE(mapping_sees_punched_holes)
{
	char b[3 * PAGE];

	memset(b, 'x', sizeof b);
	int fd = MUST(open("f", O_CREAT | O_RDWR, 0644));
	SAME(write(fd, b, sizeof b), sizeof b);
	char *m = map(fd, sizeof b, PROT_READ, MAP_SHARED);
	SAME(m[PAGE + 10], 'x');
	MUST(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, PAGE, PAGE));
	SAME(m[PAGE + 10], 0);
	SAME(m[PAGE - 1], 'x');
	SAME(m[2 * PAGE], 'x');
	MUST(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 10, 20));
	SAME(m[10], 0);
	SAME(m[9], 'x');
	/* and copied bytes */
	int in = MUST(open("in", O_CREAT | O_RDWR, 0644));
	memset(b, 'y', sizeof b);
	SAME(write(in, b, sizeof b), sizeof b);
	off_t from = 0, to = 100;
	SAME(copy_file_range(in, &from, fd, &to, 5000, 0), 5000);
	SAME(m[99], 'x');
	SAME(m[100], 'y');
	SAME(m[5099], 'y');
	SAME(m[PAGE + 2000], 0);
}

/* A replaced file and the old one, both mapped, stay apart. */
CASE(mappings_of_old_and_new)
{
	PUT("f", "old");
	int fd = MUST(open("f", O_RDWR));
	char *m = map(fd, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
	PUT("f.NEW", "new");
	int gd = MUST(open("f.NEW", O_RDWR));
	char *n = map(gd, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
	MUST(rename("f.NEW", "f"));
	SAME(memcmp(m, "old", 3), 0);
	SAME(memcmp(n, "new", 3), 0);
	m[0] = 'O';
	SAME(n[0], 'n');
	HOLDS("f", "new");
	n[0] = 'N';
	HOLDS("f", "New");
}

EX_MAIN
