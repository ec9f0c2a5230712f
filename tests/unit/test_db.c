#include "meta/base/buf.h"
#include "meta/base/cur.h"
#include "meta/base/err.h"
#include "meta/base/hash.h"
#include "meta/db.h"
#include "tests/lib/t.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define TOOL "/usr/lib/cyrus/bin/cyr_dbtool"

/* What a walk yields, as text: key=value; with bytes below space as \xx. */
static int
note(void *arg, const uint8_t *key, size_t klen, const uint8_t *val, size_t vlen)
{
	for (size_t i = 0; i < klen + 1 + vlen; i++) {
		int c = i < klen ? key[i] : i == klen ? '=' : val[i - klen - 1];
		buf_printf(arg, c < ' ' || c > '~' ? "\\%02x" : "%c", c);
	}
	buf_printf(arg, ";");
	return 0;
}

static int
stop(void *arg, const uint8_t *key, size_t klen, const uint8_t *val, size_t vlen)
{
	(void)key, (void)klen, (void)val, (void)vlen;
	return ++*(int *)arg == 2 ? 42 : 0;
}

TEST(flat)
{
	static const struct {
		const char *text;
		int rc;
		const char *pairs;
	} rows[] = {
		{ "", 0, "" },
		{ "a\tb\n", 0, "a=b;" },
		{ "a\t\nb\tc d\n", 0, "a=;b=c d;" },
		{ "a\xff\x80\xff\x89z\t\xff\x8a\xff\x8d\xff\xff\n", 0,
			"a\\00\\09z=\\0a\\0d\\ff;" },
		{ "a\tb", ERR_MANGLED, "" },
		{ "a\n", ERR_MANGLED, "" },
		{ "\tb\n", ERR_MANGLED, "" },
		{ "a\tb\n\n", ERR_MANGLED, "a=b;" },
		{ "a\tb\tc\n", ERR_MANGLED, "" },
		{ "a\tb\xff\n", ERR_MANGLED, "" },
		{ "a\tb\xff\x81\n", ERR_MANGLED, "" },
	};
	struct buf out = BUF_INIT;
	int n = 0;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		buf_clear(&out);
		CHECK_EQ(db_flat_walk(rows[i].text, strlen(rows[i].text), note, &out),
			rows[i].rc);
		CHECK_STR(buf_str(&out), rows[i].pairs);
	}
	CHECK_EQ(db_flat_walk("a\t\nb\t\nc\t\n", 9, stop, &n), 42);
	buf_fini(&out);
}

TEST(quotalegacy)
{
	static const struct {
		const char *text;
		int rc;
		const char *pairs;
	} rows[] = {
		{ "%(S (123 1000) M (4) AS (0) NF (2 9) MODSEQ 7)\n", 0,
			"S=123 1000;M=4;AS=0;NF=2 9;MODSEQ=7;" },
		{ "%(S (0 -1))\n", 0, "S=0 -1;" },
		{ "123\n1000\n", 0, "S=123\\0a1000;" },
		{ "123\n-1\n", 0, "S=123\\0a-1;" },
		{ "", ERR_MANGLED, "" },
		{ "%()\n", ERR_MANGLED, "" },
		{ "%(S (1 2 3))\n", ERR_MANGLED, "" },
		{ "%(S (1 2)\n", ERR_MANGLED, "S=1 2;" },
		{ "%(S (1 2))", ERR_MANGLED, "S=1 2;" },
		{ "%(S (1 2)) \n", ERR_MANGLED, "S=1 2;" },
		{ "%(S ())\n", ERR_MANGLED, "" },
		{ "123\n", ERR_MANGLED, "" },
		{ "123\n4\n5\n", ERR_MANGLED, "" },
		{ "123", ERR_MANGLED, "" },
	};
	struct buf out = BUF_INIT;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		buf_clear(&out);
		CHECK_EQ(db_quotalegacy_walk(
				 rows[i].text, strlen(rows[i].text), note, &out),
			rows[i].rc);
		CHECK_STR(buf_str(&out), rows[i].pairs);
	}
	buf_fini(&out);
}

TEST(annot)
{
	static const uint8_t key[] = "12\0/comment\0[.OwNeR.]";
	static const uint8_t val[] = "\0\0\0\3\0\0\0\0a\0b\0text/plain\0"
				     "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1\2\1";
	struct buf k = BUF_INIT, v = BUF_INIT;
	struct db_annot a;

	CHECK_EQ(db_annot_decode(key, sizeof(key), val, sizeof(val) - 1, &a), 0);
	CHECK_EQ(a.uid, 12);
	CHECK_STR(a.entry, "/comment");
	CHECK_STR(a.userid, "[.OwNeR.]");
	CHECK_EQ(a.value_len, 3);
	CHECK_MEM(a.value, "a\0b", 3);
	CHECK_EQ(a.modseq, 258);
	CHECK_EQ(a.flags, 1);
	db_annot_encode(&a, &k, &v);
	CHECK_EQ(k.len, sizeof(key));
	CHECK_MEM(k.data, key, k.len);
	CHECK_EQ(v.len, sizeof(val) - 1);
	CHECK_MEM(v.data, val, v.len);

	/* What older versions left out is 0; any other end is damage. */
	for (size_t n = 0; n < sizeof(val); n++) {
		uint8_t *exact = malloc(n + 1);
		CHECK(exact != NULL);
		memcpy(exact, val, n);
		bool whole = n == 12 || n == 31 || n == 39 || n == 40;
		CHECK_EQ(db_annot_decode(key, sizeof(key), exact, n, &a),
			whole ? 0 : ERR_MANGLED);
		free(exact);
	}
	for (size_t n = 0; n < sizeof(key); n++)
		CHECK_EQ(
			db_annot_decode(key, n, val, sizeof(val) - 1, &a), ERR_MANGLED);
	static const char *const bad[] = { "012", "0", "", "1x", "4294967296",
		"99999999999999999999999" };
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		buf_clear(&k);
		buf_put(&k, bad[i], strlen(bad[i]) + 1);
		buf_put(&k, "/x\0", 4);
		CHECK_EQ(db_annot_decode(k.data, k.len, val, sizeof(val) - 1, &a),
			ERR_MANGLED);
	}
	buf_fini(&k);
	buf_fini(&v);
}

/* n pairs with keys k0000.. and values of up to size bytes, into one allocation. */
static struct db_pair *
pairs_of(size_t n, size_t size)
{
	struct db_pair *pairs = calloc(1, n * (sizeof(*pairs) + 16 + size) + 1);
	if (pairs == NULL)
		abort();
	uint8_t *at = (uint8_t *)(pairs + n);

	for (size_t i = 0; i < n; i++) {
		pairs[i].key = at;
		pairs[i].klen = (size_t)sprintf((char *)at, "k%05zu", i);
		at += pairs[i].klen;
		pairs[i].val = at;
		pairs[i].vlen = size ? t_rand() % size : 0;
		for (size_t k = 0; k < pairs[i].vlen; k++)
			*at++ = (uint8_t)('a' + t_rand() % 26);
	}
	return pairs;
}

static char said[4096];

static void
say(void *arg, const char *check, const char *text)
{
	size_t n = strlen(said);

	(void)arg, (void)text;
	if (strstr(said, check) == NULL)
		snprintf(said + n, sizeof(said) - n, "%s;", check);
}

static const char *
check(const struct buf *b)
{
	said[0] = '\0';
	db_twoskip_check(b->data, b->len, say, NULL);
	return said;
}

TEST(twoskip_round_trip)
{
	for (size_t n = 0; n < 200; n += 1 + n / 3) {
		for (size_t size = 0; size < 3000; size = size * 5 + 7) {
			struct db_pair *pairs = pairs_of(n, size);
			struct buf file = BUF_INIT, want = BUF_INIT, got = BUF_INIT;
			CHECK_EQ(db_twoskip_build(pairs, n, 1, &file), 0);
			for (size_t i = 0; i < n; i++)
				note(&want, pairs[i].key, pairs[i].klen, pairs[i].val,
					pairs[i].vlen);
			CHECK_EQ(db_twoskip_walk(file.data, file.len, note, &got), 0);
			CHECK_STR(buf_str(&got), buf_str(&want));
			CHECK_STR(check(&file), "");
			buf_fini(&file);
			buf_fini(&want);
			buf_fini(&got);
			free(pairs);
		}
	}
}

TEST(twoskip_empty)
{
	struct buf file = BUF_INIT;

	CHECK_EQ(db_twoskip_build(NULL, 0, 1, &file), 0);
	CHECK_EQ(file.len, 336);
	/* The header of a file that Cyrus has just made. */
	CHECK_EQ(hash_crc32(0, file.data, 60), 0xa2943880);
	buf_fini(&file);
}

TEST(twoskip_refuses_bad_pairs)
{
	const struct db_pair same[] = { { (const uint8_t *)"a", 1, NULL, 0 },
		{ (const uint8_t *)"a", 1, NULL, 0 } };
	const struct db_pair nokey[] = { { (const uint8_t *)"", 0, NULL, 0 } };
	struct buf file = BUF_INIT;

	CHECK_EQ(db_twoskip_build(same, 2, 1, &file), ERR_USAGE);
	CHECK_EQ(db_twoskip_build(nokey, 1, 1, &file), ERR_USAGE);
	buf_fini(&file);
}

/* Long forms of the lengths: a key of 70,000 bytes. */
TEST(twoskip_long_key)
{
	static uint8_t key[70000];
	struct db_pair pair = { key, sizeof(key), key, 5 };
	struct buf file = BUF_INIT;
	int n = 1;

	memset(key, 'x', sizeof(key));
	CHECK_EQ(db_twoskip_build(&pair, 1, 1, &file), 0);
	CHECK_EQ(db_twoskip_walk(file.data, file.len, stop, &n), 42);
	CHECK_STR(check(&file), "");
	buf_fini(&file);
}

static void
set_be(uint8_t *p, uint64_t v, int n)
{
	for (int i = 0; i < n; i++)
		p[i] = (uint8_t)(v >> (8 * (n - 1 - i)));
}

static void
seal_header(struct buf *file)
{
	set_be(file->data + 60, hash_crc32(0, file->data, 60), 4);
}

/* The head CRC of the record at, which has a short key and value and this level. */
static void
seal_head(struct buf *file, size_t at)
{
	size_t head = 8 + 8 * (file->data[at + 1] + 1u);

	set_be(file->data + at + head, hash_crc32(0, file->data + at, head), 4);
}

static size_t
find_key(const struct buf *file, const char *key)
{
	return (size_t)((uint8_t *)memmem(file->data, file->len, key, strlen(key)) -
			file->data);
}

/* Each invariant broken by hand, with the CRCs put right again. */
TEST(twoskip_check_names)
{
	struct db_pair *pairs = pairs_of(8, 0);
	struct buf good = BUF_INIT, bad = BUF_INIT;

	CHECK_EQ(db_twoskip_build(pairs, 8, 3, &good), 0);
	/* Key 0 has level 1, key 1 level 2, key 2 level 1, key 3 level 3. */
	size_t k0 = find_key(&good, "k00000") - 32, k1 = find_key(&good, "k00001") - 40;

#define DAMAGE(names, what) \
	do { \
		buf_clear(&bad); \
		buf_put(&bad, good.data, good.len); \
		what; \
		CHECK_STR(check(&bad), names); \
	} while (0)

	DAMAGE("", (void)0);
	DAMAGE("twoskip-magic;", bad.data[5] = 'x');
	DAMAGE("twoskip-header-crc;", bad.data[30] ^= 1);
	DAMAGE("twoskip-dirty;", (bad.data[59] = 1, seal_header(&bad)));
	DAMAGE("twoskip-size;", buf_put(&bad, "12345678", 8));
	DAMAGE("twoskip-size;", bad.len -= 8);
	DAMAGE("twoskip-count;", (set_be(bad.data + 32, 9, 8), seal_header(&bad)));
	DAMAGE("twoskip-head-crc;", bad.data[k0 + 9] ^= 1);
	DAMAGE("twoskip-tail-crc;", bad.data[k0 + 38] ^= 4);
	DAMAGE("twoskip-chain;", (bad.data[k0] = '$', seal_head(&bad, k0)));
	DAMAGE("twoskip-chain;",
		(set_be(bad.data + k0 + 16, k0 + 4, 8), seal_head(&bad, k0)));
	/* A loop: the second key leads back to the first. */
	DAMAGE("twoskip-order;twoskip-levels;twoskip-chain;",
		(set_be(bad.data + k1 + 16, k0, 8), seal_head(&bad, k1)));
	DAMAGE("twoskip-levels;",
		(set_be(bad.data + k1 + 24, k0, 8), seal_head(&bad, k1)));
	DAMAGE("twoskip-levels;twoskip-count;",
		(set_be(bad.data + k0 + 16, find_key(&bad, "k00002") - 32, 8),
			seal_head(&bad, k0)));
	DAMAGE("twoskip-order;",
		(bad.data[k0 + 32 + 5] = '2',
			set_be(bad.data + k0 + 28, hash_crc32(0, bad.data + k0 + 32, 8),
				4)));
	buf_fini(&good);
	buf_fini(&bad);
	free(pairs);
}

TEST(twoskip_busy)
{
	struct db_pair *pairs = pairs_of(2, 9);
	struct buf file = BUF_INIT, out = BUF_INIT;

	CHECK_EQ(db_twoskip_build(pairs, 2, 3, &file), 0);
	buf_put(&file, "12345678", 8);
	CHECK_EQ(db_twoskip_walk(file.data, file.len, note, &out), ERR_BUSY);
	file.len -= 8;
	file.data[59] = 1;
	seal_header(&file);
	CHECK_EQ(db_twoskip_walk(file.data, file.len, note, &out), ERR_BUSY);
	file.data[0] = 'x';
	CHECK_EQ(db_twoskip_walk(file.data, file.len, note, &out), ERR_VERSION);
	CHECK_EQ(db_twoskip_walk("", 0, note, &out), ERR_VERSION);
	buf_fini(&file);
	buf_fini(&out);
	free(pairs);
}

/* Every truncation and many flips: an answer, and no byte beyond the end is looked at. */
TEST(twoskip_survives_anything)
{
	struct db_pair *pairs = pairs_of(20, 40);
	struct buf file = BUF_INIT, out = BUF_INIT;

	CHECK_EQ(db_twoskip_build(pairs, 20, 1, &file), 0);
	for (size_t n = 0; n < file.len; n++) {
		uint8_t *exact = malloc(n + 1);
		CHECK(exact != NULL);
		memcpy(exact, file.data, n);
		buf_clear(&out);
		CHECK(db_twoskip_walk(exact, n, note, &out) != 0);
		free(exact);
	}
	for (int round = 0; round < 3000; round++) {
		uint8_t *exact = malloc(file.len);
		CHECK(exact != NULL);
		memcpy(exact, file.data, file.len);
		struct buf view = { exact, file.len, file.len, 0, false };
		for (int i = 0; i < 3; i++)
			exact[t_rand() % view.len] ^= (uint8_t)(1 << t_rand() % 8);
		set_be(exact + 48, view.len, 8);
		exact[59] = 0;
		seal_header(&view);
		/* Heads made valid again, so that the pointers are followed. */
		for (size_t at = 64; at + 32 < view.len; at += 8)
			if (exact[at] == '+' && exact[at + 1] < 12 &&
				at + 24 + 8u * exact[at + 1] < view.len)
				seal_head(&view, at);
		buf_clear(&out);
		db_twoskip_walk(exact, view.len, note, &out);
		check(&view);
		free(exact);
	}
	buf_fini(&file);
	buf_fini(&out);
	free(pairs);
}

/* Runs cyr_dbtool on the file and returns what it prints. */
static int
tool(const char *path, const char *words, struct buf *out)
{
	char command[600], chunk[512];

	snprintf(command, sizeof(command), TOOL " %s twoskip %s 2>&1", path, words);
	FILE *f = popen(command, "r");
	if (f == NULL)
		return -1;
	buf_clear(out);
	for (size_t n; (n = fread(chunk, 1, sizeof(chunk), f)) > 0;)
		buf_put(out, chunk, n);
	return pclose(f);
}

/* The real Cyrus reads what we build, finds it consistent and writes into it. */
TEST(twoskip_and_cyrus)
{
	if (access(TOOL, X_OK) != 0) {
		printf("# SKIP: no cyr_dbtool\n");
		return;
	}
	char path[300];
	struct buf out = BUF_INIT, want = BUF_INIT;
	/* The tool gives up root for the user of Cyrus. */
	CHECK_EQ(chmod(t_tmpdir(), 0777), 0);
	snprintf(path, sizeof(path), "%s/db", t_tmpdir());

	for (size_t n = 0; n < 400; n = n * 4 + 1) {
		struct db_pair *pairs = pairs_of(n, 300);
		struct buf file = BUF_INIT;
		CHECK_EQ(db_twoskip_build(pairs, n, 1, &file), 0);
		int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
		CHECK_EQ(write(fd, file.data, file.len), file.len);
		close(fd);
		CHECK_EQ(chmod(path, 0666), 0);
		buf_clear(&want);
		for (size_t i = 0; i < n; i++)
			buf_printf(&want, "%.*s\t%.*s\n", (int)pairs[i].klen,
				pairs[i].key, (int)pairs[i].vlen, pairs[i].val);
		CHECK_EQ(tool(path, "show", &out), 0);
		CHECK_STR(buf_str(&out), buf_str(&want));
		CHECK_EQ(tool(path, "consistent", &out), 0);
		CHECK(strstr(buf_str(&out), "consistent") != NULL);
		CHECK(strstr(buf_str(&out), "inconsistent") == NULL);
		CHECK_EQ(tool(path, "set k00000x fresh", &out), 0);
		CHECK_EQ(tool(path, "set z last", &out), 0);
		CHECK_EQ(tool(path, "set a first", &out), 0);
		if (n > 0)
			CHECK_EQ(tool(path, "delete k00000", &out), 0);
		CHECK_EQ(tool(path, "consistent", &out), 0);
		CHECK(strstr(buf_str(&out), "inconsistent") == NULL);

		/* And what Cyrus made of it is what we read. */
		static uint8_t back[300000];
		fd = open(path, O_RDONLY);
		ssize_t size = read(fd, back, sizeof(back));
		close(fd);
		CHECK(size > 0);
		struct buf view = { back, (size_t)size, sizeof(back), 0, false };
		CHECK_STR(check(&view), "");
		buf_clear(&want);
		buf_clear(&out);
		note(&want, (const uint8_t *)"a", 1, (const uint8_t *)"first", 5);
		if (n == 0)
			note(&want, (const uint8_t *)"k00000x", 7,
				(const uint8_t *)"fresh", 5);
		for (size_t i = 0; i < n; i++)
			if (i == 0)
				note(&want, (const uint8_t *)"k00000x", 7,
					(const uint8_t *)"fresh", 5);
			else
				note(&want, pairs[i].key, pairs[i].klen, pairs[i].val,
					pairs[i].vlen);
		note(&want, (const uint8_t *)"z", 1, (const uint8_t *)"last", 4);
		CHECK_EQ(db_twoskip_walk(back, (size_t)size, note, &out), 0);
		CHECK_STR(buf_str(&out), buf_str(&want));
		buf_fini(&file);
		free(pairs);
	}
	buf_fini(&out);
	buf_fini(&want);
}

T_MAIN
