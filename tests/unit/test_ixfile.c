#include "meta/base/err.h"
#include "meta/ixfile.h"
#include "tests/lib/t.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { SIZE = 112, START = 160 };

static void
put_uid(struct ixfile *f, uint32_t uid)
{
	uint8_t p[SIZE] = { (uint8_t)(uid >> 24), (uint8_t)(uid >> 16),
		(uint8_t)(uid >> 8), (uint8_t)uid };

	buf_put(&f->mem, p, sizeof(p));
	f->h.num_records++;
}

static void
begin(struct ixfile *f)
{
	static const uint8_t head[START];

	memset(f, 0, sizeof(*f));
	f->h.start_offset = START;
	f->h.record_size = SIZE;
	f->loaded = true;
	buf_put(&f->mem, head, sizeof(head));
}

/* Each UID up to one above the last, and a few more, is found where counting finds it. */
static bool
agrees(const struct ixfile *f, const uint32_t *uids)
{
	uint32_t n = f->h.num_records, top = n > 0 ? uids[n - 1] + 2 : 3, at = 0;
	const uint32_t far[] = { top + 1000, UINT32_MAX - 1, UINT32_MAX };
	uint32_t got;

	for (uint32_t uid = 0; uid <= top; uid++) {
		while (at < n && uids[at] < uid)
			at++;
		bool there = at < n && uids[at] == uid;
		if (ixfile_find(f, uid, &got) != (there ? 0 : ERR_NOTFOUND) ||
			got != at)
			return false;
	}
	for (size_t i = 0; i < 3; i++)
		if (ixfile_find(f, far[i], &got) != ERR_NOTFOUND || got != n)
			return false;
	return true;
}

TEST(every_uid_is_found_where_it_lies)
{
	uint32_t uids[64];

	for (unsigned round = 0; round < 4000; round++) {
		unsigned n = (unsigned)(t_rand() % 64), holes = 1 + round % 9;
		struct ixfile f;
		uint32_t uid = 0;

		begin(&f);
		for (unsigned i = 0; i < n; i++) {
			/* Runs without a hole, and holes of all sizes. */
			uid += t_rand() % 3 ? 1 : 1 + (uint32_t)(t_rand() % holes);
			uids[i] = uid;
			put_uid(&f, uid);
		}
		bool same = agrees(&f, uids);
		buf_fini(&f.mem);
		CHECK(same);
	}
}

TEST(the_highest_uid_there_can_be)
{
	const uint32_t uids[] = { 1, 7, UINT32_MAX - 1, UINT32_MAX };
	struct ixfile f;
	uint32_t at;

	begin(&f);
	for (unsigned i = 0; i < 4; i++)
		put_uid(&f, uids[i]);
	for (unsigned i = 0; i < 4; i++) {
		CHECK_EQ(ixfile_find(&f, uids[i], &at), 0);
		CHECK_EQ(at, i);
	}
	CHECK_EQ(ixfile_find(&f, UINT32_MAX - 2, &at), ERR_NOTFOUND);
	CHECK_EQ(at, 2);
	buf_fini(&f.mem);
}

/* Reads of this thread so far, as the kernel counts them. */
static long
reads(void)
{
	char text[512];
	int fd = open("/proc/thread-self/io", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;

	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = '\0';
	const char *at = strstr(text, "syscr: ");
	return at != NULL ? atol(at + 7) : -1;
}

TEST(where_nothing_was_expunged_one_look_will_do)
{
	char path[4096];
	struct ixfile f;
	uint32_t at;

	begin(&f);
	for (uint32_t uid = 1; uid <= 5000; uid++)
		put_uid(&f, uid);
	snprintf(path, sizeof(path), "%s/index", t_tmpdir());
	f.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	CHECK(f.fd >= 0);
	CHECK_EQ(write(f.fd, f.mem.data, f.mem.len), (ssize_t)f.mem.len);
	buf_fini(&f.mem);
	f.loaded = false;
	f.open = true;
	long before = reads();
	for (uint32_t uid = 1; uid <= 5000; uid += 7)
		CHECK_EQ(ixfile_find(&f, uid, &at), 0);
	long looks = reads() - before;
	ixfile_close(&f);
	/* the read of the count itself is one of them */
	const char *preload = getenv("LD_PRELOAD"); /* valgrind reads for itself, too */
	if (before >= 0 && (preload == NULL || strstr(preload, "valgrind") == NULL))
		CHECK_EQ(looks, 715 + 1);
}

T_MAIN
