/*
 * The golden mailbox among databases that agree with it gives no finding; then each invariant
 * that needs them is broken once and must be found by its name.
 */
#include "meta/base/buf.h"
#include "meta/base/err.h"
#include "meta/db.h"
#include "meta/fsck.h"
#include "meta/header.h"
#include "meta/imapd.h"
#include "tests/lib/t.h"
#include "tests/lib/tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define ID "51wmmxqe3qsor71u0apqwrxl"
#define BY_ID "uuid/5/1/" ID
#define V "1795391289"
#define QUOTA "%(S (1291 1000) M (5) AS (12) NF (1) MODSEQ 20)\n"
#define ACL " A %(golden lrs))"

static char root[300];
static struct imapd imapd;
static struct fsck_conf conf;

/* A database of pairs of texts, which NULL ends. */
static void
put_database(const char *name, const char *const *texts)
{
	struct db_pair pairs[20];
	struct buf b = BUF_INIT;
	size_t n = 0;

	for (; texts[2 * n] != NULL; n++)
		pairs[n] = (struct db_pair){ (const uint8_t *)texts[2 * n],
			strlen(texts[2 * n]), (const uint8_t *)texts[2 * n + 1],
			strlen(texts[2 * n + 1]) };
	if (db_twoskip_build(pairs, n, 1, &b) != 0)
		abort();
	tree_put(name, b.data, b.len);
	buf_fini(&b);
}

#define MAILBOXES(...) \
	put_database( \
		"conf/mailboxes.db", (const char *const[]){ __VA_ARGS__, NULL, NULL })

/* The record of the mailbox by its name, and by its id. */
#define BY_NAME(type, id, partition, v) "%(T " type " I " id " P " partition " V " v ACL
#define OF_ID(type, name, partition, v) \
	"%(T " type " N " name " P " partition " V " v ACL
#define NAME "user\x1fgolden"
#define SOUND_ID "I" ID, OF_ID("e", NAME, "default", V)
#define SOUND_NAME "N" NAME, BY_NAME("e", ID, "default", V)

static void
put_quota(const char *line)
{
	tree_put("conf/quota/g/user.golden", line, strlen(line));
}

/* The one annotation of the mailbox itself. */
static void
put_annot(const char *value)
{
	static const uint8_t key[] = ID "\0/comment\0[.OwNeR.]"; /* and the NUL */
	struct buf val = BUF_INIT, b = BUF_INIT;
	uint8_t length[8] = { 0, 0, 0, (uint8_t)strlen(value) };

	buf_put(&val, length, 8);
	buf_put(&val, value, strlen(value) + 1);
	struct db_pair pair = { key, sizeof(key), val.data, val.len };
	if (db_twoskip_build(&pair, 1, 1, &b) != 0)
		abort();
	tree_put("conf/annotations.db", b.data, b.len);
	buf_fini(&val);
	buf_fini(&b);
}

/* cyrus.header as an upgrade leaves it, without a name. */
static void
forget_name(void)
{
	struct buf b = BUF_INIT;
	struct header h;

	tree_get("spool/" BY_ID "/cyrus.header", &b);
	if (header_decode(b.data, b.len, &h) != 0)
		abort();
	free(h.name);
	h.name = NULL;
	buf_clear(&b);
	if (header_encode(&h, &b) != 0)
		abort();
	tree_put("spool/" BY_ID "/cyrus.header", b.data, b.len);
	header_fini(&h);
	buf_fini(&b);
}

/* The golden mailbox in that folder, and databases that agree. */
static void
setup(const char *folder)
{
	char line[1000], name[400];

	snprintf(root, sizeof(root), "%s/%s", t_tmpdir(), "x");
	tree_begin(root);
	snprintf(name, sizeof(name), "spool/%s", folder);
	tree_put_golden("v17", name);
	MAILBOXES(SOUND_ID, SOUND_NAME);
	put_annot("a box");
	put_quota(QUOTA);
	snprintf(line, sizeof(line),
		"# a comment\nConfigDirectory: %s/conf\npartition-default: %s/spool\n"
		"hashimapspool: \\\n yes\n",
		root, root);
	tree_put("imapd.conf", line, strlen(line));
}

static const char *
check(void)
{
	struct fsck_options options = { .conf = &conf };
	struct fsck_counts counts = { 0 };
	char why[300];

	tree_forget();
	if (imapd_load(tree_path("imapd.conf"), &imapd, why, sizeof(why)) != 0)
		return "imapd.conf";
	conf = (struct fsck_conf){ .imapd = &imapd, .partition = "default" };
	int fd = open(tree_path("spool"), O_RDONLY | O_DIRECTORY);
	int rc = fsck_spool(fd, &options, tree_note, NULL, &counts);
	close(fd);
	imapd_fini(&imapd);
	return rc ? err_text(rc) : tree_said;
}

TEST(sound)
{
	setup(BY_ID);
	CHECK_STR(check(), "");
	CHECK_STR(tree_text, "");
}

TEST(quota_usage)
{
	static const char *const lines[] = {
		"%(S (1290 1000) M (5) AS (12) NF (1))\n",
		"%(S (1291 1000) M (4) AS (12) NF (1))\n",
		"%(S (1291 1000) M (5) AS (7) NF (1))\n",
		"%(S (1291 1000) M (5) AS (12) NF (2))\n",
		"1290\n1000\n",
	};

	setup(BY_ID);
	for (int i = 0; i < 5; i++) {
		put_quota(lines[i]);
		CHECK_STR(check(), "quota-usage;");
		CHECK(strncmp(tree_text, "user.golden quota-usage S ", 26) == 0);
	}
	put_quota("%(S (1291))\n");
	CHECK_STR(check(), "");
	tree_put("conf/quota/n/user.nobody", "%(S (5))\n", 9);
	CHECK_STR(check(), "quota-usage;");
	tree_put("conf/quota/n/user.nobody", "%(S (0))\n", 9);
	tree_put("conf/quota/n/user.nobody.NEW", "", 0);
	CHECK_STR(check(), "");
	put_quota("%(S 12\n");
	CHECK_STR(check(), "quota-root;");
	unlink(tree_path("conf/quota/g/user.golden"));
	CHECK_STR(check(), "quota-root;");
}

/* What lies on another partition or is damaged counts for a root, and cannot be counted here. */
TEST(quota_of_what_is_not_here)
{
	setup(BY_ID);
	put_quota("%(S (5000) NF (2))\n");
	MAILBOXES(SOUND_ID, "Iother", OF_ID("e", NAME "\x1fSub", "big", "1"),
		SOUND_NAME, "N" NAME "\x1fSub", BY_NAME("e", "other", "big", "1"));
	CHECK_STR(check(), "");
	MAILBOXES(SOUND_ID, "Iother", OF_ID("e", "user\x1fgolden2", "big", "1"),
		SOUND_NAME, "Nuser\x1fgolden2", BY_NAME("e", "other", "big", "1"));
	CHECK_STR(check(), "quota-usage;");
	tree_put("conf/domain/e/ex.org/quota/root", "%(S (7))\n", 9);
	CHECK(strstr((check(), tree_text), "ex.org! quota-usage S ") != NULL);
	put_quota(QUOTA);
	MAILBOXES(SOUND_ID, "Iother", OF_ID("e", "\"ex.org\x1duser\x1fx\"", "big", "1"),
		"Nex.org\x1duser\x1fx", BY_NAME("e", "other", "big", "1"), SOUND_NAME);
	CHECK_STR(check(), "");
	unlink(tree_path("conf/domain/e/ex.org/quota/root"));
	MAILBOXES(SOUND_ID, SOUND_NAME);
	tree_put("spool/" BY_ID "/cyrus.index", "", 0);
	CHECK_STR(check(), "index-size;");
}

TEST(mboxlist_pair)
{
	setup(BY_ID);
	MAILBOXES(SOUND_NAME);
	CHECK_STR(check(), "mboxlist-pair;");
	CHECK(strncmp(tree_text, "user.golden mboxlist-pair M ", 28) == 0);
	MAILBOXES("I" ID, OF_ID("e", "user\x1fother", "default", V), SOUND_NAME);
	CHECK_STR(check(), "mboxlist-pair;");
	MAILBOXES("I" ID, OF_ID("e", NAME, "big", V), SOUND_NAME);
	CHECK_STR(check(), "mboxlist-pair;");
	MAILBOXES("I" ID, OF_ID("e", NAME, "default", "7"), SOUND_NAME);
	CHECK_STR(check(), "mboxlist-pair;");
	MAILBOXES("I" ID, OF_ID("el", NAME, "default", V), SOUND_NAME);
	CHECK_STR(check(), "mboxlist-pair;");
	/* The id of a mailbox that is removed stays. */
	MAILBOXES(SOUND_ID, "Iother", OF_ID("e", "user\x1fother", "default", V),
		SOUND_NAME);
	CHECK_STR(check(), "");
}

#define OTHER(type) \
	MAILBOXES(SOUND_ID, "Iother", OF_ID(type, "user\x1fother", "default", "1"), \
		SOUND_NAME, "Nuser\x1fother", BY_NAME(type, "other", "default", "1"))

TEST(mailbox_missing)
{
	static const char file[] = "";

	setup(BY_ID);
	OTHER("e");
	CHECK_STR(check(), "mailbox-missing;");
	CHECK(strncmp(tree_text, "uuid/o/t/other mailbox-missing M ", 33) == 0);
	OTHER("el");
	CHECK_STR(check(), "mailbox-missing;");
	CHECK(strncmp(tree_text, "o/user/other mailbox-missing M ", 31) == 0);
	OTHER("ed");
	CHECK_STR(check(), "");
	OTHER("i");
	CHECK_STR(check(), "");
	OTHER("er");
	CHECK_STR(check(), "");
	OTHER("e");
	tree_put("spool/uuid/o/t/other/cyrus.index", file, 0);
	CHECK_STR(check(), "header-missing;index-size;");
}

TEST(mailbox_unlisted)
{
	setup(BY_ID);
	MAILBOXES(SOUND_ID);
	CHECK_STR(check(), "mailbox-unlisted;");
	CHECK(strstr(tree_text, BY_ID " mailbox-unlisted M ") == tree_text);
	MAILBOXES(SOUND_ID, "N" NAME, BY_NAME("ed", ID, "default", V));
	CHECK_STR(check(), "mailbox-unlisted;");
	MAILBOXES("I" ID, OF_ID("e", NAME, "big", V), "N" NAME,
		BY_NAME("e", ID, "big", V));
	CHECK_STR(check(), "mailbox-unlisted;");
	CHECK(strstr(tree_text, "partition big") != NULL);
}

TEST(mailbox_uidvalidity)
{
	setup(BY_ID);
	MAILBOXES("I" ID, OF_ID("e", NAME, "default", "7"), "N" NAME,
		BY_NAME("e", ID, "default", "7"));
	CHECK_STR(check(), "mailbox-uidvalidity;");
}

TEST(mailbox_name)
{
	setup(BY_ID);
	MAILBOXES("I" ID, OF_ID("e", "user\x1fold.en", "default", V), "Nuser\x1fold.en",
		BY_NAME("e", ID, "default", V));
	CHECK_STR(check(), "mailbox-name;");
	CHECK(strstr(tree_text, "mailboxes.db user.old^en") != NULL);
	/* Whose the private annotations are is then not known either. */
	forget_name();
	CHECK_STR(check(), "header-file-crc;");
	/* By name a rename leaves the old name in the header; whose private annotations count
	 * tells the folder. */
	setup("o/user/old^en");
	MAILBOXES("I" ID, OF_ID("el", "user\x1fold.en", "default", V),
		"Nuser\x1fold.en", BY_NAME("el", ID, "default", V));
	CHECK_STR(check(), "sync-annot;");
}

TEST(mailbox_id)
{
	setup("g/user/golden");
	MAILBOXES("I" ID, OF_ID("el", NAME, "default", V), "N" NAME,
		BY_NAME("el", ID, "default", V));
	CHECK_STR(check(), "");
	unlink(tree_path("conf/annotations.db"));
	CHECK_STR(check(), "mailbox-annot;");
	MAILBOXES("Iother", OF_ID("el", NAME, "default", V), "N" NAME,
		BY_NAME("el", "other", "default", V));
	CHECK_STR(check(), "mailbox-id;mailbox-annot;");
}

TEST(mailbox_path)
{
	setup("user/golden");
	MAILBOXES("I" ID, OF_ID("el", NAME, "default", V), "N" NAME,
		BY_NAME("el", ID, "default", V));
	CHECK_STR(check(), "mailbox-path;");
	CHECK(strstr(tree_text, "user/golden mailbox-path M ") == tree_text);
	CHECK(strstr(tree_text, " in g/user/golden\n") != NULL);
}

/* The folders that Cyrus takes for names, with either hash. */
TEST(folders_by_name)
{
	static const struct {
		const char *name, *plain, *full;
	} rows[] = {
		{ "shared", "s/shared", "T/shared" },
		{ "shared\x1f"
		  "9box",
			"q/shared/9box", "C/shared/9box" },
		{ "user\x1f"
		  "a.nn\x1fx",
			"a/user/a^nn/x", "F/user/a^nn/x" },
		{ "dom.org\x1d"
		  "user\x1f"
		  "bob",
			"domain/d/dom.org/b/user/bob", "domain/J/dom.org/E/user/bob" },
	};
	char line[1000], key[100];

	for (int full = 0; full < 2; full++) {
		setup(BY_ID);
		snprintf(line, sizeof(line),
			"configdirectory: %s/conf\nhashimapspool: on\nfulldirhash: "
			"%s\n",
			root, full ? "1" : "no");
		tree_put("imapd.conf", line, strlen(line));
		for (int i = 0; i < 4; i++) {
			snprintf(key, sizeof(key), "N%s", rows[i].name);
			snprintf(line, sizeof(line),
				"%%(T el N \"%s\" P default V 1 A %%())", rows[i].name);
			MAILBOXES("Iother", line, key,
				BY_NAME("el", "other", "default", "1"));
			check();
			const char *want = full ? rows[i].full : rows[i].plain;
			if (strncmp(tree_text, want, strlen(want)) != 0 ||
				strstr(tree_text, "mailbox-missing") == NULL)
				t_fail(__FILE__, __LINE__, "%s: %s", want, tree_text);
		}
	}
}

TEST(mailbox_annot)
{
	setup(BY_ID);
	put_annot("another box");
	CHECK_STR(check(), "mailbox-annot;");
	put_annot("box");
	CHECK_STR(check(), "mailbox-annot;");
}

TEST(databases)
{
	struct buf b = BUF_INIT;

	setup(BY_ID);
	tree_get("conf/mailboxes.db", &b);
	b.data[b.len / 2] ^= 1;
	tree_put("conf/mailboxes.db", b.data, b.len);
	CHECK_STR(check(), "conf-db;");
	b.data[b.len / 2] ^= 1;
	buf_put(&b, "12345678", 8);
	tree_put("conf/mailboxes.db", b.data, b.len);
	CHECK_STR(check(), err_text(ERR_BUSY));
	CHECK(strstr(conf.why, "mailboxes.db: a transaction is not finished") != NULL);
	tree_put("conf/mailboxes.db", "user.golden\t0 default\n", 22);
	CHECK_STR(check(), err_text(ERR_VERSION));
	CHECK(strstr(conf.why, "mailboxes.db: not a twoskip file") != NULL);
	MAILBOXES("user.golden", "%(P default)");
	CHECK_STR(check(), err_text(ERR_VERSION));
	CHECK(strstr(conf.why, "before 3.6") != NULL);
	MAILBOXES("N" NAME, "%(P default");
	CHECK_STR(check(), "conf-db;");
	unlink(tree_path("conf/mailboxes.db"));
	CHECK_STR(check(), err_text(ERR_NOTFOUND));
	buf_fini(&b);
}

TEST(imapd_conf)
{
	char line[1000], why[300];
	struct imapd c;

	setup(BY_ID);
	snprintf(line, sizeof(line),
		" partition-two :  /srv/two \n#partition-three: /x\n"
		"mboxlist_db_path: /db/boxes\n\n@include: %s\n",
		tree_path("imapd.conf"));
	tree_put("more.conf", line, strlen(line));
	CHECK_EQ(imapd_load(tree_path("more.conf"), &c, why, sizeof(why)), 0);
	CHECK_EQ(c.n_partitions, 2);
	CHECK_STR(c.partitions[0].name, "two");
	CHECK_STR(c.partitions[0].path, "/srv/two");
	CHECK_STR(c.partitions[1].name, "default");
	CHECK_STR(c.mailboxes, "/db/boxes");
	CHECK_STR(c.annotations, tree_path("conf/annotations.db"));
	CHECK_EQ(c.hashimapspool, true);
	CHECK_EQ(c.fulldirhash, false);
	imapd_fini(&c);
	/* what says neither yes nor no is no */
	for (int i = 0; i < 2; i++) {
		snprintf(line, sizeof(line), "configdirectory: /c\nhashimapspool:%s\n",
			i == 0 ? "" : " perhaps");
		tree_put("more.conf", line, strlen(line));
		CHECK_EQ(imapd_load(tree_path("more.conf"), &c, why, sizeof(why)), 0);
		CHECK_EQ(c.hashimapspool, false);
		imapd_fini(&c);
	}
	snprintf(line, sizeof(line), "configdirectory: /c\nmboxlist_db: sql\n");
	tree_put("more.conf", line, strlen(line));
	CHECK_EQ(imapd_load(tree_path("more.conf"), &c, why, sizeof(why)), ERR_CONF);
	CHECK_STR(why, "mboxlist_db: sql: only twoskip is read");
	tree_put("more.conf", "quota_db: x\n", 12);
	CHECK_EQ(imapd_load(tree_path("more.conf"), &c, why, sizeof(why)), ERR_CONF);
	CHECK_STR(why, "configdirectory is not set");
	snprintf(line, sizeof(line), "@include: %s\n", tree_path("more.conf"));
	tree_put("more.conf", line, strlen(line));
	CHECK_EQ(imapd_load(tree_path("more.conf"), &c, why, sizeof(why)), ERR_CONF);
	CHECK(strstr(why, "too many @include") != NULL);
	CHECK_EQ(imapd_load(tree_path("none"), &c, why, sizeof(why)), ERR_CONF);
}

/* What may have no end, and what nobody may ever write to, is not read. */
TEST(imapd_conf_that_is_no_file)
{
	char line[2000], why[300];
	struct imapd c;

	setup(BY_ID);
	CHECK_EQ(mkfifo(tree_path("fifo"), 0600), 0);
	tree_put("large", "", 0);
	CHECK_EQ(truncate(tree_path("large"), 2 << 20), 0);
	char what[3][400] = { "/dev/null" };
	snprintf(what[1], sizeof(what[1]), "%s", tree_path("fifo"));
	snprintf(what[2], sizeof(what[2]), "%s", tree_path("large"));
	alarm(20);
	for (int i = 0; i < 3; i++) {
		snprintf(line, sizeof(line), "configdirectory: /c\n@include: %s\n",
			what[i]);
		tree_put("more.conf", line, strlen(line));
		CHECK_EQ(imapd_load(tree_path("more.conf"), &c, why, sizeof(why)),
			ERR_CONF);
		CHECK(strstr(why, what[i]) != NULL);
		CHECK(strstr(why, "not a file of at most") != NULL);
	}
	alarm(0);
}

T_MAIN
