/*
 * ex_data - bytes: reads, writes, holes, big files, fallocate, copy_file_range, sync.
 */
#include "tests/mount/ex.h"

#include <pthread.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/uio.h>

static uint64_t
mix(uint64_t x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdULL;
	x ^= x >> 33;
	return x;
}

/* The byte that belongs at an offset, for a seed. */
static uint8_t
byte_at(uint64_t seed, uint64_t off)
{
	return (uint8_t)mix(seed * 1000003 + off);
}

static bool
all(const char *p, size_t n, char c)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != c)
			return false;
	return true;
}

CASE(read_and_write_edges)
{
	char b[64];

	int fd = MUST(open("f", O_CREAT | O_RDWR, 0644));
	SAME(read(fd, b, 1), 0);
	SAME(pwrite(fd, "end", 3, 10000), 3);
	SAME(FSTAT(fd).st_size, 10003);
	SAME(pread(fd, b, 10, 9995), 8);
	SAME(memcmp(b, "\0\0\0\0\0end", 8), 0);
	SAME(pread(fd, b, 10, 10003), 0);
	SAME(pread(fd, b, 10, 1 << 30), 0);
	FAILS(pread(fd, b, 1, -1), EINVAL);
	FAILS(pwrite(fd, b, 1, -1), EINVAL);
	FAILS(lseek(fd, -1, SEEK_SET), EINVAL);
	SAME(lseek(fd, 0, SEEK_END), 10003);
	SAME(lseek(fd, 5, SEEK_END), 10008);
	SAME(write(fd, "x", 1), 1);
	SAME(FSTAT(fd).st_size, 10009);
	SAME(write(fd, "", 0), 0);
	char aa[] = "aa", bbb[] = "bbb";
	struct iovec v[3] = { { aa, 2 }, { aa, 0 }, { bbb, 3 } };
	SAME(pwritev(fd, v, 3, 100), 5);
	char x[3], y[4];
	struct iovec r[2] = { { x, 3 }, { y, 4 } };
	SAME(preadv(fd, r, 2, 99), 7);
	SAME(memcmp(x, "\0aa", 3), 0);
	SAME(memcmp(y, "bbb\0", 4), 0);
	FAILS(open("f/x", O_RDONLY), ENOTDIR);
	int d = MUST(open(".", O_RDONLY));
	FAILS(read(d, b, 1), EISDIR);
}

CASE(truncate_leaves_zeros)
{
	char b[20000];

	int fd = MUST(open("f", O_CREAT | O_RDWR, 0644));
	memset(b, 'a', sizeof b);
	SAME(write(fd, b, sizeof b), sizeof b);
	static const off_t cuts[] = { 4097, 5000, 1, 4096, 0, 8191 };
	for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
		memset(b, 'a', sizeof b);
		SAME(pwrite(fd, b, sizeof b, 0), sizeof b);
		MUST(ftruncate(fd, cuts[i]));
		SAME(FSTAT(fd).st_size, cuts[i]);
		MUST(truncate("f", 15000));
		SAME(pread(fd, b, sizeof b, 0), 15000);
		CHECK(all(b, (size_t)cuts[i], 'a'));
		CHECK(all(b + cuts[i], 15000 - (size_t)cuts[i], 0));
		/* and for one who opens it afresh */
		int again = MUST(open("f", O_RDONLY));
		SAME(read(again, b, sizeof b), 15000);
		CHECK(all(b + cuts[i], 15000 - (size_t)cuts[i], 0));
		close(again);
	}
	FAILS(ftruncate(fd, -1), EINVAL);
	FAILS(truncate(".", 0), EISDIR);
	FAILS(truncate("none", 0), ENOENT);
}

CASE(random_io_against_a_model)
{
	enum { SIZE = 300000, ROUNDS = 4000 };
	static uint8_t model[SIZE * 2], got[SIZE * 2], buf[70000];
	uint64_t s = 42, size = 0;

	int fd = MUST(open("f", O_CREAT | O_RDWR, 0644));
	for (int i = 0; i < ROUNDS; i++) {
		uint64_t r = s = mix(s + 0x9e3779b97f4a7c15ULL);
		uint64_t off = (r >> 8) % SIZE, n = (r >> 40) % (r % 3 ? 3000 : 70000);
		switch (r % 16) {
		case 0:
			MUST(ftruncate(fd, (off_t)off));
			if (off < size)
				memset(model + off, 0, size - off);
			size = off;
			break;
		case 1:
			MUST(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				(off_t)off, (off_t)n + 1));
			for (uint64_t k = off; k < off + n + 1 && k < size; k++)
				model[k] = 0;
			break;
		case 2: {
			int other = MUST(open("f", O_RDWR));
			close(fd);
			fd = other;
			break;
		}
		case 3:
		case 4:
		case 5:
		case 6:
		case 7: {
			ssize_t want =
				off >= size
					? 0
					: (ssize_t)(off + n > size ? size - off : n);
			SAME(pread(fd, got, n, (off_t)off), want);
			SAME(memcmp(got, model + off, (size_t)want), 0);
			break;
		}
		default:
			for (uint64_t k = 0; k < n; k++)
				buf[k] = byte_at((uint64_t)i, k);
			SAME(pwrite(fd, buf, n, (off_t)off), n);
			memcpy(model + off, buf, n);
			if (n > 0 && off + n > size)
				size = off + n;
		}
		SAME(FSTAT(fd).st_size, size);
	}
	SAME(pread(fd, got, sizeof got, 0), size);
	SAME(memcmp(got, model, size), 0);
}

CASE(large_transfers)
{
	size_t n = (5 << 20) + 4321;
	char *a = malloc(n), *b = malloc(n);

	for (size_t i = 0; i < n; i++)
		a[i] = (char)byte_at(9, i);
	int fd = MUST(open("f", O_CREAT | O_RDWR, 0644));
	SAME(pwrite(fd, a, n, 17), n);
	SAME(pread(fd, b, n, 17), n);
	SAME(memcmp(a, b, n), 0);
	MUST(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
	int again = MUST(open("f", O_RDONLY));
	SAME(pread(again, b, n, 17), n);
	SAME(memcmp(a, b, n), 0);
	struct iovec v[100];
	for (int i = 0; i < 100; i++)
		v[i] = (struct iovec){ a + i * 1000, 1000 };
	SAME(pwritev(fd, v, 100, 3), 100000);
	SAME(pread(fd, b, 100000, 3), 100000);
	SAME(memcmp(a, b, 100000), 0);
}

CASE(over_four_gigabytes)
{
	static const off_t at[] = { 0, (off_t)2 << 30, ((off_t)4 << 30) - 2,
		(off_t)5 << 30, (off_t)1 << 40 };
	char b[16];

	int fd = MUST(open("f", O_CREAT | O_RDWR, 0644));
	for (int i = 0; i < 5; i++)
		SAME(pwrite(fd, "12345678", 8, at[i]), 8);
	SAME(FSTAT(fd).st_size, at[4] + 8);
	CHECK(STAT("f").st_blocks * 512 < 1 << 20);
	SAME(STAT("f").st_size, at[4] + 8);
	int rd = MUST(open("f", O_RDONLY));
	for (int i = 0; i < 5; i++) {
		SAME(pread(rd, b, 8, at[i]), 8);
		SAME(memcmp(b, "12345678", 8), 0);
	}
	SAME(pread(rd, b, 8, (off_t)3 << 30), 8);
	CHECK(all(b, 8, 0));
	SAME(lseek(rd, 8192, SEEK_DATA), (off_t)2 << 30);
	CHECK(lseek(rd, 0, SEEK_HOLE) <= 1 << 20);
	MUST(ftruncate(fd, ((off_t)4 << 30) + 1));
	SAME(STAT("f").st_size, ((off_t)4 << 30) + 1);
	SAME(pread(rd, b, 16, ((off_t)4 << 30) - 2), 3);
	SAME(memcmp(b, "123", 3), 0);
	FAILS(ftruncate(fd, (off_t)1 << 62), EFBIG);
	FAILS(pwrite(fd, "x", 1, (off_t)1 << 62), EFBIG);
	SAME(STAT("f").st_size, ((off_t)4 << 30) + 1);
}

CASE(seek_data_and_hole)
{
	char b[4096];

	memset(b, 'd', sizeof b);
	int fd = MUST(open("f", O_CREAT | O_RDWR, 0644));
	FAILS(lseek(fd, 0, SEEK_DATA), ENXIO);
	MUST(ftruncate(fd, 40 * 4096));
	FAILS(lseek(fd, 0, SEEK_DATA), ENXIO);
	SAME(lseek(fd, 5, SEEK_HOLE), 5);
	SAME(pwrite(fd, b, 4096, 10 * 4096), 4096);
	SAME(pwrite(fd, b, 4096, 30 * 4096), 4096);
	MUST(fsync(fd));
	SAME(lseek(fd, 0, SEEK_DATA), 10 * 4096);
	SAME(lseek(fd, 10 * 4096 + 7, SEEK_DATA), 10 * 4096 + 7);
	SAME(lseek(fd, 10 * 4096, SEEK_HOLE), 11 * 4096);
	SAME(lseek(fd, 11 * 4096, SEEK_DATA), 30 * 4096);
	SAME(lseek(fd, 30 * 4096, SEEK_HOLE), 31 * 4096);
	FAILS(lseek(fd, 31 * 4096, SEEK_DATA), ENXIO);
	SAME(lseek(fd, 39 * 4096, SEEK_HOLE), 39 * 4096);
	FAILS(lseek(fd, 40 * 4096, SEEK_HOLE), ENXIO);
	FAILS(lseek(fd, 50 * 4096, SEEK_DATA), ENXIO);
	SAME(lseek(fd, 0, SEEK_CUR), 39 * 4096);
}

CASE(fallocate_modes)
{
	char b[12 * 4096];

	int fd = MUST(open("f", O_CREAT | O_RDWR, 0644));
	MUST(fallocate(fd, 0, 0, 8192));
	SAME(FSTAT(fd).st_size, 8192);
	CHECK(FSTAT(fd).st_blocks >= 16);
	MUST(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 1 << 20));
	SAME(FSTAT(fd).st_size, 8192);
	CHECK(FSTAT(fd).st_blocks >= 2048);
	SAME(posix_fallocate(fd, 8000, 40960), 0);
	SAME(FSTAT(fd).st_size, 48960);
	SAME(pread(fd, b, sizeof b, 0), 48960);
	CHECK(all(b, 48960, 0));
	memset(b, 'x', sizeof b);
	SAME(pwrite(fd, b, sizeof b, 0), sizeof b);
	MUST(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 8192));
	SAME(pread(fd, b, sizeof b, 0), sizeof b);
	CHECK(all(b, 4096, 'x') && all(b + 4096, 8192, 0) && b[3 * 4096] == 'x');
	SAME(lseek(fd, 0, SEEK_HOLE), 4096);
	MUST(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 100, 50));
	SAME(pread(fd, b, 200, 0), 200);
	CHECK(all(b, 100, 'x') && all(b + 100, 50, 0) && all(b + 150, 50, 'x'));
	MUST(fallocate(fd, FALLOC_FL_ZERO_RANGE, 5 * 4096, 4096));
	SAME(pread(fd, b, sizeof b, 0), sizeof b);
	CHECK(all(b + 5 * 4096, 4096, 0) && b[6 * 4096] == 'x');
	MUST(fallocate(fd, FALLOC_FL_ZERO_RANGE, 11 * 4096, 8192));
	SAME(FSTAT(fd).st_size, 13 * 4096);
	MUST(fallocate(
		fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 13 * 4096, 8192));
	SAME(FSTAT(fd).st_size, 13 * 4096);
	FAILS(fallocate(fd, 0, 0, 0), EINVAL);
	FAILS(fallocate(fd, 0, -1, 10), EINVAL);
	FAILS(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 10), EOPNOTSUPP);
	int rd = MUST(open("f", O_RDONLY));
	FAILS(fallocate(rd, 0, 0, 10), EBADF);
	/* those that shift the rest: done as ext4 does, or refused and nothing changed */
	SAME(pwrite(fd, "first", 5, 0), 5);
	SAME(pwrite(fd, "third", 5, 8192), 5);
	off_t size = FSTAT(fd).st_size;
	if (fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 4096, 4096) == 0) {
		SAME(FSTAT(fd).st_size, size - 4096);
		SAME(pread(fd, b, 5, 4096), 5);
		SAME(memcmp(b, "third", 5), 0);
		MUST(fallocate(fd, FALLOC_FL_INSERT_RANGE, 4096, 4096));
	} else {
		SAME(errno, EOPNOTSUPP);
		FAILS(fallocate(fd, FALLOC_FL_INSERT_RANGE, 4096, 4096), EOPNOTSUPP);
	}
	SAME(FSTAT(fd).st_size, size);
	SAME(pread(fd, b, 5, 8192), 5);
	SAME(memcmp(b, "third", 5), 0);
}

CASE(copy_ranges)
{
	enum { N = 300000 };
	static char a[N], b[N];
	off_t from = 100, to = 5;

	for (size_t i = 0; i < N; i++)
		a[i] = (char)byte_at(3, i);
	int in = MUST(open("in", O_CREAT | O_RDWR, 0644));
	int out = MUST(open("out", O_CREAT | O_RDWR, 0644));
	SAME(write(in, a, N), N);
	PUT("tail", "old content that is longer than nothing");
	for (off_t left = N - 100; left > 0;) {
		ssize_t n = copy_file_range(in, &from, out, &to, (size_t)left, 0);
		CHECK(n > 0);
		left -= n;
	}
	SAME(from, N);
	SAME(to, N - 95);
	SAME(FSTAT(out).st_size, N - 95);
	SAME(pread(out, b, N, 0), N - 95);
	CHECK(all(b, 5, 0));
	SAME(memcmp(b + 5, a + 100, N - 100), 0);
	from = N;
	SAME(copy_file_range(in, &from, out, &to, 10, 0), 0);
	/* within one file: apart it works, overlapping it must not */
	from = 0;
	to = 200000;
	SAME(copy_file_range(in, &from, in, &to, 1000, 0), 1000);
	SAME(pread(in, b, 1000, 200000), 1000);
	SAME(memcmp(b, a, 1000), 0);
	from = 0;
	to = 500;
	FAILS(copy_file_range(in, &from, in, &to, 1000, 0), EINVAL);
	FAILS(copy_file_range(in, NULL, out, NULL, 10, 1), EINVAL);
	int rd = MUST(open("out", O_RDONLY));
	FAILS(copy_file_range(in, NULL, rd, NULL, 10, 0), EBADF);
	/* by the descriptors' own offsets, over existing bytes */
	int tail = MUST(open("tail", O_RDWR));
	SAME(lseek(in, 0, SEEK_SET), 0);
	SAME(copy_file_range(in, NULL, tail, NULL, 3, 0), 3);
	SAME(lseek(tail, 0, SEEK_CUR), 3);
	SAME(pread(tail, b, 100, 0), 39);
	SAME(memcmp(b, a, 3), 0);
	SAME(memcmp(b + 3, " content", 8), 0);
	/* sendfile and splice go the same way as read and write */
	off_t so = 50;
	SAME(ftruncate(out, 0), 0);
	SAME(lseek(out, 0, SEEK_SET), 0);
	SAME(sendfile(out, in, &so, 1000), 1000);
	SAME(pread(out, b, 1000, 0), 1000);
	SAME(memcmp(b, a + 50, 1000), 0);
	int p[2];
	MUST(pipe(p));
	so = 70;
	SAME(splice(in, &so, p[1], NULL, 4000, 0), 4000);
	so = 0;
	SAME(splice(p[0], NULL, out, &so, 4000, 0), 4000);
	SAME(pread(out, b, 4000, 0), 4000);
	SAME(memcmp(b, a + 70, 4000), 0);
}

CASE(sync_calls)
{
	PUT("f", "x");
	int rd = MUST(open("f", O_RDONLY));
	MUST(fsync(rd)); /* FT7 */
	MUST(fdatasync(rd));
	MUST(syncfs(rd));
	int d = MUST(open(".", O_RDONLY | O_DIRECTORY));
	MUST(fsync(d));
	MUST(fdatasync(d));
	static const int flags[] = { O_SYNC, O_DSYNC };
	for (int i = 0; i < 2; i++) {
		int fd = MUST(open("f", O_RDWR | flags[i]));
		SAME(write(fd, "sync", 4), 4);
		MUST(ftruncate(fd, 4));
		HOLDS("f", "sync");
		close(fd);
	}
	int fd = MUST(open("f", O_RDWR));
	MUST(sync_file_range(fd, 0, 4, SYNC_FILE_RANGE_WRITE));
	MUST(unlink("f"));
	MUST(fsync(fd));
	MUST(fsync(rd));
}

CASE(direct_io)
{
	char *a, b[8192];

	SAME(posix_memalign((void **)&a, 4096, 8192), 0);
	memset(a, 'q', 8192);
	int fd = open("f", O_CREAT | O_RDWR | O_DIRECT, 0644);
	if (fd < 0) {
		SAME(errno, EINVAL);
		SKIP("no O_DIRECT");
	}
	SAME(pwrite(fd, a, 8192, 0), 8192);
	int cached = MUST(open("f", O_RDWR));
	SAME(pread(cached, b, 8192, 0), 8192);
	CHECK(all(b, 8192, 'q'));
	memset(b, 'r', 4096);
	SAME(pwrite(cached, b, 4096, 0), 4096);
	SAME(pread(fd, a, 4096, 0), 4096);
	CHECK(all(a, 4096, 'r'));
	memset(a, 's', 4096);
	SAME(pwrite(fd, a, 4096, 4096), 4096);
	SAME(pread(cached, b, 4096, 4096), 4096);
	CHECK(all(b, 4096, 's'));
}

CASE(file_size_limit)
{
	struct rlimit r = { 5000, 5000 };
	char b[8192] = { 0 };

	signal(SIGXFSZ, SIG_IGN);
	int fd = MUST(open("f", O_CREAT | O_RDWR, 0644));
	MUST(setrlimit(RLIMIT_FSIZE, &r));
	SAME(write(fd, b, 4000), 4000);
	SAME(write(fd, b, 4000), 1000);
	FAILS(write(fd, b, 1), EFBIG);
	FAILS(ftruncate(fd, 6000), EFBIG);
	SAME(FSTAT(fd).st_size, 5000);
}

struct worker {
	pthread_t thread;
	int id, fd;
	const char *failed;
};

/* Each thread: a file of its own, and its own stripes of one file for all. */
static void *
work(void *arg)
{
	struct worker *w = arg;
	char name[16], a[3000], b[3000];

	snprintf(name, sizeof name, "w%d", w->id);
	int own = open(name, O_CREAT | O_RDWR, 0644);
	for (int i = 0; own >= 0 && i < 300 && w->failed == NULL; i++) {
		size_t n = 1 + (size_t)mix((uint64_t)i) % sizeof a;
		off_t at = (off_t)(i * 8 + w->id) * (off_t)sizeof a;
		for (size_t k = 0; k < n; k++)
			a[k] = (char)byte_at((uint64_t)(w->id * 1000 + i), k);
		if (pwrite(own, a, n, i * 100) != (ssize_t)n ||
			pwrite(w->fd, a, n, at) != (ssize_t)n)
			w->failed = "write";
		else if (pread(own, b, n, i * 100) != (ssize_t)n ||
			 memcmp(a, b, n) != 0)
			w->failed = "own file";
		else if (pread(w->fd, b, n, at) != (ssize_t)n || memcmp(a, b, n) != 0)
			w->failed = "common file";
		if (i % 50 == 49 && fsync(own) != 0)
			w->failed = "fsync";
	}
	if (own < 0 || close(own) != 0 || unlink(name) != 0)
		w->failed = "name";
	return NULL;
}

CASE(threads)
{
	struct worker w[8] = { 0 };
	char a[3000], b[3000];

	int fd = MUST(open("common", O_CREAT | O_RDWR, 0644));
	for (int i = 0; i < 8; i++) {
		w[i].id = i;
		w[i].fd = fd;
		SAME(pthread_create(&w[i].thread, NULL, work, &w[i]), 0);
	}
	for (int i = 0; i < 8; i++) {
		pthread_join(w[i].thread, NULL);
		if (w[i].failed != NULL)
			ex_die(__FILE__, __LINE__, "thread %d: %s", i, w[i].failed);
	}
	for (int i = 0; i < 300 * 8; i++) {
		size_t n = 1 + (size_t)mix((uint64_t)(i / 8)) % sizeof a;
		for (size_t k = 0; k < n; k++)
			a[k] = (char)byte_at((uint64_t)(i % 8 * 1000 + i / 8), k);
		SAME(pread(fd, b, n, (off_t)i * 3000), n);
		SAME(memcmp(a, b, n), 0);
	}
}

EX_MAIN
