/*
 * A healthy mailbox of a real server gives no finding; then every invariant is broken once, with
 * the CRCs put right, and must be found by its name.
 */
#include "meta/base/buf.h"
#include "meta/base/err.h"
#include "meta/db.h"
#include "meta/fsck.h"
#include "meta/index.h"
#include "tests/lib/t.h"
#include "tests/lib/tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define NS 1000000000ull
#define BOX "g/user/golden"

static char root[300];
static struct buf index_file;
static struct fsck_counts counts;

static const char *
in_box(const char *name)
{
	char path[400];

	snprintf(path, sizeof(path), BOX "/%s", name);
	return tree_path(path);
}

static void
set_time(const char *path, uint64_t seconds)
{
	struct timespec t[2] = { { (time_t)seconds, 0 }, { (time_t)seconds, 0 } };

	utimensat(AT_FDCWD, path, t, 0);
}

/* A fresh copy of a golden mailbox, by name, with the times that git does not keep. */
static void
setup(const char *golden)
{
	struct index_view v;
	struct index_record r;

	snprintf(root, sizeof(root), "%s/spool", t_tmpdir());
	tree_begin(root);
	tree_put_golden(golden, BOX);
	tree_get(in_box("cyrus.index"), &index_file);
	if (index_view_open(&v, index_file.data, index_file.len) != 0)
		abort();
	for (uint32_t i = 0; i < v.header.num_records; i++) {
		char name[20];
		if (index_view_record(&v, i, &r) != 0)
			abort();
		snprintf(name, sizeof(name), "%u.", r.uid);
		set_time(in_box(name), r.internaldate / NS);
	}
}

/* The names of what is found, each once, in the order of appearance. */
static const char *
check_with(const struct fsck_options *options)
{
	int fd = open(root, O_RDONLY | O_DIRECTORY);

	tree_forget();
	counts = (struct fsck_counts){ 0 };
	int rc = fsck_spool(fd, options, tree_note, NULL, &counts);
	close(fd);
	return rc ? err_text(rc) : tree_said;
}

static const char *
check(void)
{
	static const struct fsck_options all = { .bodies = true, .times = true };

	return check_with(&all);
}

static struct index_header
get_header(void)
{
	struct index_view v;

	if (index_view_open(&v, index_file.data, index_file.len) != 0)
		abort();
	return v.header;
}

static void
put_header(const struct index_header *h)
{
	if (index_header_encode(h, index_file.data) != 0)
		abort();
	tree_put(in_box("cyrus.index"), index_file.data, index_file.len);
}

static struct index_record
get_record(uint32_t i)
{
	struct index_record r;
	struct index_view v;

	if (index_view_open(&v, index_file.data, index_file.len) != 0 ||
		index_view_record(&v, i, &r) != 0)
		abort();
	return r;
}

static void
put_record(uint32_t i, const struct index_record *r)
{
	struct index_header h = get_header();

	if (index_record_encode(h.minor_version, r,
		    index_file.data + h.start_offset + i * h.record_size) != 0)
		abort();
	tree_put(in_box("cyrus.index"), index_file.data, index_file.len);
}

#define HEADER(names, edit) \
	do { \
		setup("v17"); \
		struct index_header h = get_header(); \
		edit; \
		put_header(&h); \
		CHECK_STR(check(), names); \
	} while (0)

#define RECORD(i, names, edit) \
	do { \
		setup("v17"); \
		struct index_record r = get_record(i); \
		edit; \
		put_record(i, &r); \
		CHECK_STR(check(), names); \
	} while (0)

TEST(healthy)
{
	static const char *const whole[] = { "v17", "v10" };

	for (int i = 0; i < 2; i++) {
		setup(whole[i]);
		CHECK_STR(check(), "");
		CHECK_STR(tree_text, "");
		CHECK_EQ(counts.mailboxes, 1);
		CHECK_EQ(counts.messages, i ? 3 : 6);
		CHECK(counts.bytes > 800);
		CHECK_EQ(counts.findings, 0);
	}
}

/* The other versions, with the bodies of v17: only what has no file any more is missing. */
TEST(healthy_versions)
{
	static const char *const boxes[] = { "v12", "v13", "v14", "v15", "v16",
		"upgraded" };
	struct buf b = BUF_INIT;

	for (int i = 0; i < 6; i++) {
		setup(boxes[i]);
		for (int uid = 1; uid <= 7; uid++) {
			char name[20];
			if (uid == 6)
				continue;
			snprintf(name, sizeof(name), "v17/%d.", uid);
			tree_get_golden(name, &b);
			snprintf(name, sizeof(name), "%d.", uid);
			tree_put(in_box(name), b.data, b.len);
			set_time(in_box(name), 1600000000 + (uint64_t)uid);
		}
		CHECK_STR(check(), "");
		CHECK_STR(tree_text, "");
	}
	buf_fini(&b);
}

/* Records: 0 to 6 are UIDs 1 to 7; 4 (UID) is expunged, 6 unlinked. */
TEST(records)
{
	RECORD(1,
		"uid-order;message-size;message-time;annot-uid;sync-basic;sync-annot;"
		"message-unknown;",
		r.uid = 1);
}

TEST(record_fields)
{
	RECORD(2, "modseq;sync-basic;", r.modseq = 1000);
	RECORD(2, "modseq;sync-annot;", r.createdmodseq = r.modseq + 1);
	RECORD(2, "record-flags;", r.flags |= 0x100);
	RECORD(2, "record-flags;", r.flags |= INDEX_FLAG_UNLINKED);
	RECORD(2, "user-flags;", r.user_flags[2] = 4);
	RECORD(2, "message-size;quota-used;", r.size++);
	RECORD(2, "message-time;sync-basic;", r.internaldate += 5 * NS);
	RECORD(2, "header-size;", r.header_size--);
	RECORD(2, "guid;sync-basic;", r.guid[3] ^= 1);
	RECORD(2, "guid;sync-basic;", memset(r.guid, 0, SHA1_LEN));
	RECORD(2, "cache-crc;", r.cache_crc ^= 1);
	RECORD(2, "cache-record;", r.cache_offset = 1 << 20);
	RECORD(2, "cache-version;", r.cache_version = 99);
	RECORD(2, "", r.cache_crc = 0);
	RECORD(2, "sync-basic;", r.last_updated += NS);
	RECORD(2, "sync-annot;", r.savedate += NS);
	RECORD(3, "first-expunged;", r.last_updated -= 100 * NS);
	RECORD(2, "counts;sync-basic;", r.flags |= INDEX_FLAG_FLAGGED);
}

TEST(record_crc)
{
	setup("v17");
	index_file.data[160 + 2 * 112 + 50] ^= 1;
	tree_put(in_box("cyrus.index"), index_file.data, index_file.len);
	CHECK_STR(check(), "record-crc;");
	CHECK(strstr(tree_text, " 3 record-crc M ") != NULL);
}

TEST(header_fields)
{
	HEADER("last-uid;", h.last_uid = 6);
	HEADER("counts;", h.exists++);
	HEADER("counts;", h.answered++);
	HEADER("counts;", h.flagged++);
	HEADER("counts;", h.deleted++);
	HEADER("counts;", h.unseen++);
	HEADER("quota-used;", h.quota_mailbox_used++);
	HEADER("sync-basic;", h.sync_basic ^= 1);
	HEADER("", h.sync_basic = 0);
	HEADER("sync-annot;", h.sync_annot ^= 1);
	HEADER("", h.sync_annot ^= INDEX_CRC_ANNOT_START);
	HEADER("quota-annot;", h.quota_annot_used = 1);
	HEADER("first-expunged;", h.first_expunged += 1000 * NS);
	HEADER("first-expunged;", h.first_expunged = 0);
	HEADER("", h.first_expunged = NS);
	HEADER("header-file-crc;", h.header_file_crc ^= 1);
	HEADER("options;", h.options |= 2);
	HEADER("removed;", h.options |= INDEX_OPT_DELETED);
	HEADER("needs-unlink;", h.options &= ~INDEX_OPT_NEEDS_UNLINK);
	HEADER("uidvalidity;", h.uidvalidity = 0);
	HEADER("modseq;", h.deletedmodseq = h.highestmodseq + 1);
	HEADER("cache-generation;", h.generation_no++);
}

/* Versions that 3.6 does not write: v17 in their layout, with the two sums they add. */
TEST(newer_versions)
{
	for (uint32_t minor = 18; minor <= 20; minor++) {
		uint8_t record[INDEX_MAX_RECORD], header[INDEX_MAX_HEADER];
		struct buf b = BUF_INIT;

		setup("v17");
		struct index_header h = get_header();
		h.minor_version = minor;
		CHECK_EQ(index_header_encode(&h, header), 0);
		buf_put(&b, header, index_header_size(minor));
		for (uint32_t i = 0; i < h.num_records; i++) {
			struct index_record r = get_record(i);
			CHECK_EQ(index_record_encode(minor, &r, record), 0);
			buf_put(&b, record, index_record_size(minor));
		}
		buf_clear(&index_file);
		buf_put(&index_file, b.data, b.len);
		buf_fini(&b);
		h.quota_deleted_used = 236; /* UID 5 */
		h.quota_expunged_used = 228; /* UID 4 */
		put_header(&h);
		CHECK_STR(check(), "");
		h.quota_deleted_used++;
		put_header(&h);
		CHECK_STR(check(), "quota-used;");
		h.quota_deleted_used--;
		h.quota_expunged_used--;
		put_header(&h);
		CHECK_STR(check(), "quota-used;");
	}
}

TEST(index_as_a_whole)
{
	setup("v17");
	tree_put(in_box("cyrus.index"), index_file.data, index_file.len - 1);
	CHECK_STR(check(), "index-size;");
	tree_put(in_box("cyrus.index"), index_file.data, 40);
	CHECK_STR(check(), "index-size;");
	tree_put(in_box("cyrus.index"), index_file.data, 0);
	CHECK_STR(check(), "index-size;");
	buf_put(&index_file, index_file.data + 160, 50);
	tree_put(in_box("cyrus.index"), index_file.data, index_file.len);
	CHECK_STR(check(), "index-tail;");
	buf_put(&index_file, index_file.data + 210, 62);
	tree_put(in_box("cyrus.index"), index_file.data, index_file.len);
	CHECK_STR(check(), "");
	index_file.data[100] ^= 1;
	tree_put(in_box("cyrus.index"), index_file.data, index_file.len);
	CHECK_STR(check(), "index-crc;");
	index_file.data[11] = 99;
	tree_put(in_box("cyrus.index"), index_file.data, index_file.len);
	CHECK_STR(check(), "index-version;");
	unlink(in_box("cyrus.index"));
	CHECK_STR(check(), "index-missing;");
}

TEST(order)
{
	setup("v17");
	struct index_record a = get_record(0), b = get_record(2);
	put_record(0, &b);
	put_record(2, &a);
	CHECK(strncmp(check(), "uid-order;", 10) == 0);
	setup("v17");
	struct index_record none = get_record(2);
	none.uid = 0;
	put_record(2, &none);
	CHECK_STR(check(), "uid-order;message-unknown;");
}

TEST(files)
{
	setup("v17");
	unlink(in_box("3."));
	CHECK_STR(check(), "message-missing;");
	mkdir(in_box("3."), 0700);
	CHECK_STR(check(), "message-kind;");
	rmdir(in_box("3."));
	CHECK_EQ(symlink("2.", in_box("3.")), 0);
	CHECK_STR(check(), "message-kind;");

	setup("v17");
	struct buf b = BUF_INIT;
	tree_get(in_box("3."), &b);
	b.data[b.len - 5] ^= 1;
	tree_put(in_box("3."), b.data, b.len);
	set_time(in_box("3."), 1600000003);
	CHECK_STR(check(), "guid;");
	static const struct fsck_options quick = { .times = true };
	CHECK_STR(check_with(&quick), "");
	tree_put(in_box("3."), "", 0);
	set_time(in_box("3."), 1600000003);
	CHECK_STR(check_with(&quick), "message-size;");

	/* UID 6 is unlinked and waits to be cleaned up, says the header. */
	setup("v17");
	tree_put(in_box("6."), "x", 1);
	CHECK_STR(check(), "");
	struct index_header h = get_header();
	struct index_record r = get_record(5);
	h.options &= ~INDEX_OPT_NEEDS_UNLINK;
	put_header(&h);
	r.flags &= ~INDEX_FLAG_NEEDS_CLEANUP;
	put_record(5, &r);
	CHECK_STR(check(), "message-unlinked;");

	static const struct {
		const char *name, *finding;
	} rows[] = { { "8.", "message-unknown;" }, { "08.", "odd-file;" },
		{ "99999999999.", "odd-file;" }, { "8", "odd-file;" },
		{ "notes", "odd-file;" }, { "cyrus.index.NEW", "leftover;" },
		{ ".fuse_hidden0001", "leftover;" }, { "cyrus.squat", "" } };
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		setup("v17");
		tree_put(in_box(rows[i].name), "x", 1);
		CHECK_STR(check(), rows[i].finding);
	}
	buf_fini(&b);
}

TEST(cache_file)
{
	setup("v17");
	struct buf b = BUF_INIT;
	tree_get(in_box("cyrus.cache"), &b);
	tree_put(in_box("cyrus.cache"), b.data, 100);
	CHECK_STR(check(), "cache-record;");
	unlink(in_box("cyrus.cache"));
	CHECK_STR(check(), "cache-missing;");
	b.data[4 + 8] ^= 1;
	tree_put(in_box("cyrus.cache"), b.data, b.len);
	CHECK_STR(check(), "cache-crc;");
	buf_fini(&b);
}

/* Puts other text behind the magic of cyrus.header and its CRC into the index. */
static void
put_names(const char *line)
{
	struct index_header h = get_header();
	struct buf b = BUF_INIT;

	tree_get(in_box("cyrus.header"), &b);
	b.len = 115;
	buf_put(&b, line, strlen(line));
	tree_put(in_box("cyrus.header"), b.data, b.len);
	h.header_file_crc = hash_crc32(0, b.data, b.len);
	put_header(&h);
	buf_fini(&b);
}

#define FLAGS "(Important gone $Forwarded)"

TEST(header_file)
{
	setup("v17");
	put_names("%(T e N user.golden I x A %() U " FLAGS ")\n");
	CHECK_STR(check(), "");
	put_names(
		"%(T e N user.golden I x A %() U (Important gone $Forwarded gone))\n");
	CHECK_STR(check(), "header-flags;");
	put_names("%(T e N user.golden I x A %() U (Important gone $Forwarded \"a "
		  "b\"))\n");
	CHECK_STR(check(), "header-flags;");
	put_names("%(T e N user.golden I x A %() U (Important NIL $Forwarded))\n");
	CHECK_STR(check(), "user-flags;sync-basic;");
	put_names("%(T e N user.golden A %() U " FLAGS ")\n");
	CHECK_STR(check(), "header-uniqueid;");
	put_names("%(T e N user.golden I x A %() U " FLAGS);
	CHECK_STR(check(), "header-format;");
	unlink(in_box("cyrus.header"));
	CHECK_STR(check(), "header-missing;");
}

TEST(layout_by_id)
{
	setup("v17");
	CHECK_EQ(mkdir(tree_path("uuid"), 0700), 0);
	CHECK_EQ(mkdir(tree_path("uuid/a"), 0700), 0);
	CHECK_EQ(mkdir(tree_path("uuid/a/b"), 0700), 0);
	put_names("%(T e N user.golden I abc A %() U " FLAGS ")\n");
	CHECK_EQ(rename(tree_path(BOX), tree_path("uuid/a/b/abc")), 0);
	CHECK_STR(check(), "");
	CHECK_EQ(rename(tree_path("uuid/a/b/abc"), tree_path("uuid/a/b/abd")), 0);
	CHECK_STR(check(), "header-uniqueid;");
	CHECK_EQ(rename(tree_path("uuid/a/b/abd"), tree_path(BOX)), 0);
	put_names("%(T el N user.golden I abc A %() U " FLAGS ")\n");
	CHECK_EQ(rename(tree_path(BOX), tree_path("uuid/a/b/abc")), 0);
	CHECK_STR(check(), "header-path;");
	CHECK_EQ(rename(tree_path("uuid/a/b/abc"), tree_path("uuid/a/b/xbc")), 0);
	CHECK_EQ(rename(tree_path("uuid/a/b/xbc"), tree_path(BOX)), 0);
}

/* "user.golden" hashes to g or, by the full rule, worked out with Python, to G. */
TEST(folder_by_name)
{
	static const struct {
		const char *top, *user;
		const char *finding;
	} rows[] = { { "g", "golden", "" }, { "G", "golden", "" },
		{ "h", "golden", "path-hash;" }, { "q", "9x", "sync-annot;" },
		{ "n", "9x", "path-hash;sync-annot;" },
		/* A dot ends what the full rule looks at. */
		{ "F", "a^nn", "sync-annot;" },
		/* Another owner, golden@ex.org. */
		{ "domain/e/ex.org/g", "golden", "sync-annot;" },
		{ "domain/f/ex.org/g", "golden", "path-hash;sync-annot;" },
		{ "domain/ex.org/h", "golden", "path-hash;sync-annot;" },
		{ "domain/x", "golden", "sync-annot;" } };
	char between[40], box[60], cmd[500];

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		setup("v17");
		snprintf(between, sizeof(between), "%s/user", rows[i].top);
		snprintf(box, sizeof(box), "%s/%s", between, rows[i].user);
		snprintf(cmd, sizeof(cmd), "mkdir -p %.400s", tree_path(between));
		CHECK_EQ(system(cmd), 0);
		CHECK_EQ(rename(tree_path(BOX), tree_path(box)), 0);
		CHECK_STR(check(), rows[i].finding);
		CHECK_EQ(rename(tree_path(box), tree_path(BOX)), 0);
	}
}

TEST(twice_and_stage)
{
	struct buf b = BUF_INIT;

	setup("v17");
	CHECK_EQ(mkdir(tree_path("g/user/gother"), 0700), 0);
	tree_get(in_box("cyrus.header"), &b);
	tree_put("g/user/gother/cyrus.header", b.data, b.len);
	CHECK_STR(check(), "index-missing;uniqueid-twice;");
	remove(tree_path("g/user/gother/cyrus.header"));
	CHECK_EQ(mkdir(tree_path("stage."), 0700), 0);
	tree_put("stage./1-2-3", "x", 1);
	CHECK_STR(check(), "");
	set_time(tree_path("stage./1-2-3"), 1600000000);
	CHECK_STR(check(), "stage-old;");
	buf_fini(&b);
}

struct pairs {
	struct db_pair list[16];
	size_t n;
};

static int
keep(void *arg, const uint8_t *key, size_t klen, const uint8_t *val, size_t vlen)
{
	struct pairs *p = arg;

	p->list[p->n++] = (struct db_pair){ key, klen, val, vlen };
	return 0;
}

/* cyrus.annotations again with one more pair behind all others. */
static void
put_annot(const struct db_annot *a, const char *key)
{
	struct buf old = BUF_INIT, k = BUF_INIT, v = BUF_INIT, new = BUF_INIT;
	struct pairs p = { .n = 0 };

	tree_get(in_box("cyrus.annotations"), &old);
	if (db_twoskip_walk(old.data, old.len, keep, &p) != 0)
		abort();
	db_annot_encode(a, &k, &v);
	if (key != NULL) {
		buf_clear(&k);
		buf_put(&k, key, strlen(key));
	}
	keep(&p, k.data, k.len, v.data, v.len);
	if (db_twoskip_build(p.list, p.n, 2, &new) != 0)
		abort();
	tree_put(in_box("cyrus.annotations"), new.data, new.len);
	buf_fini(&old);
	buf_fini(&k);
	buf_fini(&v);
	buf_fini(&new);
}

TEST(annotations)
{
	struct db_annot a = { .uid = 3, .entry = "/comment", .userid = "" };
	struct buf b = BUF_INIT;

	setup("v17");
	put_annot(&a, NULL);
	CHECK_STR(check(), "");
	setup("v17");
	a.value = (const uint8_t *)"a longer value than before";
	a.value_len = 26;
	put_annot(&a, NULL);
	CHECK_STR(check(), "sync-annot;quota-annot;");
	setup("v17");
	a.flags = 1;
	put_annot(&a, NULL);
	CHECK_STR(check(), "");
	setup("v17");
	a.uid = 9;
	put_annot(&a, NULL);
	CHECK_STR(check(), "annot-uid;");
	setup("v17");
	a.uid = 6;
	put_annot(&a, NULL);
	CHECK_STR(check(), "annot-uid;");
	setup("v17");
	a.uid = 3;
	a.entry = "/vendor/cmu/cyrus-imapd/savedate";
	put_annot(&a, NULL);
	CHECK_STR(check(), "");
	setup("v17");
	a.flags = 0;
	put_annot(&a, NULL);
	CHECK_STR(check(), "annot-virtual;");
	setup("v17");
	put_annot(&a, "x");
	CHECK_STR(check(), "annot-record;");

	setup("v17");
	tree_get(in_box("cyrus.annotations"), &b);
	b.data[80] ^= 1;
	tree_put(in_box("cyrus.annotations"), b.data, b.len);
	CHECK_STR(check(), "twoskip-head-crc;");
	b.data[30] ^= 1;
	tree_put(in_box("cyrus.annotations"), b.data, b.len);
	CHECK_STR(check(), "twoskip-header-crc;");
	b.data[30] ^= 1;
	tree_put(in_box("cyrus.annotations"), b.data, b.len - 8);
	CHECK_STR(check(), "twoskip-size;");
	tree_put(in_box("cyrus.annotations"), "", 0);
	CHECK_STR(check(), "sync-annot;");
	unlink(in_box("cyrus.annotations"));
	CHECK_STR(check(), "sync-annot;");
	buf_fini(&b);
}

/* Private annotations count under the owner's name, which the path or the header tells. */
TEST(owner)
{
	setup("v17");
	CHECK_EQ(rename(tree_path("g/user/golden"), tree_path("g/user/gother")), 0);
	CHECK_STR(check(), "sync-annot;");
	CHECK_EQ(rename(tree_path("g/user/gother"), tree_path("golden")), 0);
	CHECK_STR(check(), "");
	CHECK_EQ(rename(tree_path("golden"), tree_path("g/user/golden")), 0);
}

TEST(single_mailbox)
{
	static const struct fsck_options all = { .bodies = true };

	setup("v17");
	unlink(in_box("3."));
	int fd = open(root, O_RDONLY | O_DIRECTORY);
	counts = (struct fsck_counts){ 0 };
	tree_forget();
	CHECK_EQ(fsck_mailbox(fd, BOX, &all, tree_note, NULL, &counts), 0);
	CHECK_STR(tree_said, "message-missing;");
	CHECK_EQ(
		fsck_mailbox(fd, "none", &all, tree_note, NULL, &counts), ERR_NOTFOUND);
	close(fd);
	buf_fini(&index_file);
}

T_MAIN
