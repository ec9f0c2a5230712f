/*
 * The golden files, made by a real server: what we decode encodes to the same bytes, the sums
 * are the server's own, and the text of dump is the one beside each file.
 */
#include "fs/dump.h"
#include "meta/base/buf.h"
#include "meta/base/err.h"
#include "meta/db.h"
#include "meta/header.h"
#include "meta/index.h"
#include "tests/lib/t.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char *const boxes[] = { "v10", "v12", "v13", "v14", "v15", "v16", "v17",
	"upgraded" };
enum { N_BOXES = sizeof(boxes) / sizeof(boxes[0]) };

static bool
slurp(const char *dir, const char *name, struct buf *out)
{
	char path[500];

	snprintf(path, sizeof(path), "%s/%s/%s", t_golden(), dir, name);
	int fd = open(path, O_RDONLY);
	buf_clear(out);
	for (ssize_t n = 1; fd >= 0 && n > 0;) {
		uint8_t *at = buf_room(out, 65536);
		n = at ? read(fd, at, 65536) : -1;
		if (n > 0)
			out->len += (size_t)n;
	}
	if (fd < 0)
		t_fail(__FILE__, __LINE__, "no %s", path);
	else
		close(fd);
	return fd >= 0;
}

TEST(index_bytes)
{
	struct buf file = BUF_INIT;
	uint8_t again[INDEX_MAX_HEADER];
	struct index_record r;
	struct index_view v;

	for (int b = 0; b < N_BOXES; b++) {
		if (!slurp(boxes[b], "cyrus.index", &file))
			return;
		CHECK_EQ(index_view_open(&v, file.data, file.len), 0);
		if (boxes[b][0] == 'v')
			CHECK_EQ(v.header.minor_version, atoi(boxes[b] + 1));
		CHECK(v.header.num_records >= 3);
		CHECK_EQ(index_header_encode(&v.header, again), 0);
		CHECK_MEM(again, file.data, v.header.start_offset);
		for (uint32_t i = 0; i < v.header.num_records; i++) {
			CHECK_EQ(index_view_record(&v, i, &r), 0);
			CHECK_EQ(index_record_encode(v.header.minor_version, &r, again),
				0);
			CHECK_MEM(again,
				file.data + v.header.start_offset +
					i * v.header.record_size,
				v.header.record_size);
		}
	}
	buf_fini(&file);
}

/* The whole file is looked at through every truncation and every flipped bit. */
TEST(index_survives)
{
	struct buf file = BUF_INIT;
	struct index_record r;
	struct index_view v;
	uint32_t at;

	for (int b = 0; b < N_BOXES; b++) {
		if (!slurp(boxes[b], "cyrus.index", &file))
			return;
		for (size_t i = 0; i < file.len + file.len * 8; i++) {
			size_t n = i < file.len ? i : file.len;
			uint8_t *exact = malloc(n + 1);
			CHECK(exact != NULL);
			memcpy(exact, file.data, n);
			if (i >= file.len)
				exact[(i - file.len) / 8] ^=
					(uint8_t)(1 << (i - file.len) % 8);
			if (index_view_open(&v, exact, n) == 0)
				for (uint32_t k = 0; k < v.header.num_records; k++) {
					index_view_record(&v, k, &r);
					index_view_find(&v, k, &at);
				}
			free(exact);
		}
	}
	buf_fini(&file);
}

/* Cyrus's own sums over the live records, from the records and names alone. */
TEST(sync_basic)
{
	struct buf file = BUF_INIT, names = BUF_INIT;
	struct index_record r;
	struct index_view v;
	struct header h;

	for (int b = 1; b < N_BOXES; b++) {
		uint32_t basic = 0;
		if (!slurp(boxes[b], "cyrus.index", &file) ||
			!slurp(boxes[b], "cyrus.header", &names))
			return;
		CHECK_EQ(index_view_open(&v, file.data, file.len), 0);
		CHECK_EQ(header_decode(names.data, names.len, &h), 0);
		CHECK_EQ(
			hash_crc32(0, names.data, names.len), v.header.header_file_crc);
		for (uint32_t i = 0; i < v.header.num_records; i++) {
			CHECK_EQ(index_view_record(&v, i, &r), 0);
			basic ^= index_crc_basic(&r, (const char *const *)h.flags);
		}
		CHECK_EQ(basic, v.header.sync_basic);
		header_fini(&h);
	}
	buf_fini(&file);
	buf_fini(&names);
}

TEST(header_bytes)
{
	struct buf file = BUF_INIT, again = BUF_INIT;
	struct header h;

	for (int b = -1; b < N_BOXES; b++) {
		if (!(b < 0 ? slurp(".", "old.header", &file)
			    : slurp(boxes[b], "cyrus.header", &file)))
			return;
		CHECK_EQ(header_decode(file.data, file.len, &h), 0);
		CHECK_EQ(h.old_form, b < 0);
		buf_clear(&again);
		CHECK_EQ(header_encode(&h, &again), 0);
		CHECK_EQ(again.len, file.len);
		CHECK_MEM(again.data, file.data, file.len);
		header_fini(&h);
	}
	buf_fini(&file);
	buf_fini(&again);
}

static int
same_pair(void *arg, const uint8_t *key, size_t klen, const uint8_t *val, size_t vlen)
{
	struct buf k = BUF_INIT, v = BUF_INIT;
	struct db_annot a;
	int rc = db_annot_decode(key, klen, val, vlen, &a);

	if (rc == 0) {
		db_annot_encode(&a, &k, &v);
		if (k.len != klen || memcmp(k.data, key, klen) != 0 || v.len != vlen ||
			memcmp(v.data, val, vlen) != 0)
			rc = ERR_MANGLED;
	}
	++*(int *)arg;
	buf_fini(&k);
	buf_fini(&v);
	return rc;
}

static void
complain(void *arg, const char *check, const char *text)
{
	(void)arg;
	t_fail(__FILE__, __LINE__, "%s: %s", check, text);
}

TEST(annotation_bytes)
{
	struct buf file = BUF_INIT;

	for (int b = 0; b < N_BOXES; b++) {
		int n = 0;
		if (!slurp(boxes[b], "cyrus.annotations", &file))
			return;
		CHECK_EQ(db_twoskip_check(file.data, file.len, complain, NULL), 0);
		CHECK_EQ(db_twoskip_walk(file.data, file.len, same_pair, &n), 0);
		if (b > 0)
			CHECK(n >= 3);
	}
	buf_fini(&file);
}

static void
compare_dump(const char *path, const char *name)
{
	char expected[400];
	struct buf want = BUF_INIT, got = BUF_INIT, json = BUF_INIT;

	snprintf(expected, sizeof(expected), "%s.txt", name);
	CHECK(slurp(".", expected, &want));
	CHECK_EQ(dump_file(path, false, &got), 0);
	CHECK_STR(buf_str(&got), buf_str(&want));
	CHECK_EQ(dump_file(path, true, &json), 0);
	CHECK(json.len > 2 && json.data[0] == '[' && json.data[json.len - 2] == ']');
	buf_fini(&want);
	buf_fini(&got);
	buf_fini(&json);
}

TEST(dump_text)
{
	static const char *const conf[] = { "mailboxes.db", "annotations.db",
		"golden.sub", "user.golden" };
	static const char *const files[] = { "cyrus.index", "cyrus.header",
		"cyrus.cache", "cyrus.annotations" };
	char path[600], name[300];

	for (int b = 0; b < N_BOXES; b++)
		for (int f = 0; f < 4; f++) {
			snprintf(path, sizeof(path), "%s/%s/%s", t_golden(), boxes[b],
				files[f]);
			snprintf(name, sizeof(name), "%s.%s", boxes[b], files[f]);
			compare_dump(path, name);
		}
	for (int c = 0; c < 4; c++) {
		snprintf(path, sizeof(path), "%s/conf/%s", t_golden(), conf[c]);
		snprintf(name, sizeof(name), "conf.%s", conf[c]);
		compare_dump(path, name);
	}
	snprintf(path, sizeof(path), "%s/old.header", t_golden());
	compare_dump(path, "old.header");
}

TEST(dump_of_damage)
{
	struct buf file = BUF_INIT, out = BUF_INIT;
	char path[400];

	if (!slurp("v17", "cyrus.index", &file))
		return;
	file.data[160 + 40] ^= 1;
	snprintf(path, sizeof(path), "%s/cyrus.index", t_tmpdir());
	int fd = open(path, O_WRONLY | O_CREAT, 0600);
	CHECK_EQ(write(fd, file.data, file.len), file.len);
	close(fd);
	CHECK_EQ(dump_file(path, false, &out), ERR_CHECKSUM);
	CHECK(strstr(buf_str(&out), "damage=\"checksum does not match\"") != NULL);
	snprintf(path, sizeof(path), "%s/none", t_tmpdir());
	CHECK_EQ(dump_file(path, false, &out), ERR_NOTFOUND);
	buf_fini(&file);
	buf_fini(&out);
}

/* A copy of its own for every try, so that the sanitizer sees a byte too many. */
static void
dump_try(const char *path, const uint8_t *p, size_t n, size_t flip)
{
	struct buf file = BUF_INIT, out = BUF_INIT;

	file.data = malloc(n + 1);
	file.len = n;
	memcpy(file.data, p, n);
	if (flip < n)
		file.data[flip] ^= (uint8_t)(1u << t_rand() % 8);
	dump_bytes(path, &file, t_rand() % 2, &out);
	free(file.data);
	buf_fini(&out);
}

TEST(dump_survives)
{
	static const uint8_t long_item[] = { 0, 0, 0, 1, 0x0f, 0xff, 0xff, 0, 'a', 'b',
		'c', 'd' };
	static const char *const files[] = { "v10/cyrus.index", "v17/cyrus.index",
		"v17/cyrus.header", "v10/cyrus.cache", "v17/cyrus.cache",
		"v17/cyrus.annotations", "old.header", "conf/mailboxes.db",
		"conf/annotations.db", "conf/golden.sub", "conf/user.golden" };
	struct buf file = BUF_INIT;
	char path[600];

	dump_try("/cyrus.cache", long_item, sizeof(long_item), SIZE_MAX);
	for (size_t f = 0; f < sizeof(files) / sizeof(files[0]); f++) {
		if (!slurp(".", files[f], &file))
			return;
		snprintf(path, sizeof(path), "%s/%s", t_golden(), files[f]);
		for (size_t i = 0; i < file.len; i++) {
			dump_try(path, file.data, i, SIZE_MAX);
			dump_try(path, file.data, file.len, i);
			/* Where no index is beside it, it is walked by its own lengths. */
			if (strstr(files[f], "cache") == NULL)
				continue;
			dump_try(strrchr(path, '/'), file.data, i, SIZE_MAX);
			dump_try(strrchr(path, '/'), file.data, file.len, i);
		}
	}
	buf_fini(&file);
}

T_MAIN
