#include "fs/conf.h"
#include "meta/base/err.h"
#include "tests/lib/t.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PRINT_A "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define PRINT_B "FFeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100"
#define NEEDED "mountpoint: /mnt/m\nspool: /srv/spool\nstate: /srv/state\nname: a\n"

static struct conf conf;
static char told[8192];

static int
parse(const char *text)
{
	struct buf out = BUF_INIT;
	int rc = conf_parse("/x/a.conf", text, strlen(text), &conf, &out);

	snprintf(told, sizeof(told), "%s", buf_str(&out));
	buf_fini(&out);
	return rc;
}

TEST(defaults)
{
	CHECK_EQ(parse(NEEDED), 0);
	CHECK_STR(told, "");
	CHECK_STR(conf.path, "/x/a.conf");
	CHECK_STR(conf.mountpoint, "/mnt/m");
	CHECK_STR(conf.name, "a");
	CHECK_STR(conf.imapd_conf, "/etc/imapd.conf");
	CHECK_EQ(conf.listen.host[0], 0);
	CHECK_EQ(conf.n_peers, 0);
	CHECK_EQ(conf.role, CONF_ACTIVE);
	CHECK_EQ(conf.when_alone, CONF_CONTINUE);
	CHECK_EQ(conf.sync, CONF_COMMIT);
	CHECK_EQ(conf.xattr, 0);
	CHECK_EQ(conf.transport, CONF_DEV);
	CHECK_EQ(conf.log, LOG_LEVEL_INFO);
	CHECK_EQ(conf.start_wait, 10000);
	CHECK_EQ(conf.stop_wait, 60000);
	CHECK_EQ(conf.journal_size, 1LL << 30);
	CHECK_EQ(conf.journal_age, 7LL * 86400000);
	CHECK_EQ(conf.rate, 0);
	for (int k = 0; k < CONF_KINDS; k++)
		CHECK_EQ(conf.durability[k], CONF_LOCAL);
}

TEST(every_key)
{
	CHECK_EQ(
		parse("# a slot\n\n  mountpoint:/mnt/m/   # trailing words\n"
		      "spool: /srv/sp#ool\nstate: /srv/state\r\nname : b-1.x\n"
		      "listen: [::]:7411\n"
		      "peer: c  c.example.org:7412\tsha256:" PRINT_A "\n"
		      "peer: d 10.0.0.1:1 sha256:" PRINT_B "   # other\n"
		      "role: standby\ndurability: flushed, flags=local ,other=applied\n"
		      "when_alone: refuse\nsync: each\nimapd_conf: /c/imapd.conf\n"
		      "start_wait: 250ms\nstop_wait: 2m\njournal_size: 64M\n"
		      "journal_age: 36h\nrate: 2M\nxattr: yes\nthreads: 4\nlog: debug\n"
		      "transport: uring"),
		0);
	CHECK_STR(told, "");
	CHECK_STR(conf.mountpoint, "/mnt/m");
	CHECK_STR(conf.spool, "/srv/sp#ool");
	CHECK_STR(conf.state, "/srv/state");
	CHECK_STR(conf.name, "b-1.x");
	CHECK_STR(conf.listen.host, "::");
	CHECK_STR(conf.listen.port, "7411");
	CHECK_EQ(conf.n_peers, 2);
	CHECK_STR(conf.peers[0].name, "c");
	CHECK_STR(conf.peers[0].addr.host, "c.example.org");
	CHECK_STR(conf.peers[0].addr.port, "7412");
	CHECK_EQ(conf.peers[0].fingerprint[1], 0x23);
	CHECK_EQ(conf.peers[1].fingerprint[0], 0xff);
	CHECK_EQ(conf.role, CONF_STANDBY);
	CHECK_EQ(conf.durability[CONF_DELIVERY], CONF_FLUSHED);
	CHECK_EQ(conf.durability[CONF_FLAGS], CONF_LOCAL);
	CHECK_EQ(conf.durability[CONF_OTHER], CONF_APPLIED);
	CHECK_EQ(conf.when_alone, CONF_REFUSE);
	CHECK_EQ(conf.sync, CONF_EACH);
	CHECK_STR(conf.imapd_conf, "/c/imapd.conf");
	CHECK_EQ(conf.start_wait, 250);
	CHECK_EQ(conf.stop_wait, 120000);
	CHECK_EQ(conf.journal_size, 64LL << 20);
	CHECK_EQ(conf.journal_age, 36LL * 3600000);
	CHECK_EQ(conf.rate, 2LL << 20);
	CHECK_EQ(conf.xattr, 1);
	CHECK_EQ(conf.threads, 4);
	CHECK_EQ(conf.transport, CONF_URING);
	CHECK_EQ(conf.log, LOG_LEVEL_DEBUG);
}

/* A wrong line, and what must be in the complaint: file, line, key, expectation. */
static const struct {
	const char *line, *told;
} bad[] = {
	{ "role: boss",
		"/x/a.conf:5: role: expected one of active, standby, not \"boss\"" },
	{ "rool: active", "/x/a.conf:5: rool: expected a key of twinspool.conf(5)" },
	{ "no colon here", "/x/a.conf:5: line: expected `key: value`, not \"no colon" },
	{ ": x", ":5: line:" },
	{ "name: b",
		"/x/a.conf:5: name: expected it once, it stands already in line 4" },
	{ "imapd_conf: etc/x", ":5: imapd_conf: expected an absolute path" },
	{ "imapd_conf: /a/../b", ":5: imapd_conf: expected an absolute path" },
	{ "imapd_conf: /a//b", ":5: imapd_conf: expected an absolute path" },
	{ "imapd_conf: /a/.", ":5: imapd_conf: expected an absolute path" },
	{ "imapd_conf:", ":5: imapd_conf: expected an absolute path" },
	{ "listen: 7411", ":5: listen: expected HOST:PORT" },
	{ "listen: ::1:7411", ":5: listen: expected HOST:PORT" },
	{ "listen: h:0", ":5: listen: expected HOST:PORT" },
	{ "listen: h:65536", ":5: listen: expected HOST:PORT" },
	{ "listen: h:1x", ":5: listen: expected HOST:PORT" },
	{ "listen: :1", ":5: listen: expected HOST:PORT" },
	{ "peer: b h:1 sha256:12", ":5: peer: expected NAME HOST:PORT sha256:" },
	{ "peer: b h:1 " PRINT_A, ":5: peer: expected" },
	{ "peer: b h:1 sha256:" PRINT_A " more", ":5: peer: expected" },
	{ "peer: b/c h:1 sha256:" PRINT_A, ":5: peer: expected" },
	{ "peer: a h:1 sha256:" PRINT_A,
		":5: peer: expected a name that is not this node" },
	{ "peer: b h:1 sha256:" PRINT_A "\npeer: b h:1 sha256:" PRINT_A,
		":6: peer: expected a name that no other" },
	/* the wrong line, not the last of its kind */
	{ "peer: a h:1 sha256:" PRINT_A "\npeer: b h:1 sha256:" PRINT_B,
		":5: peer: expected a name that is not this node" },
	{ "peer: b h:1 sha256:" PRINT_A "\npeer: c h:2 sha256:" PRINT_A
	  "\npeer: d h:1 sha256:" PRINT_B,
		":6: peer: expected a fingerprint that no other peer has, not \"c\"" },
	{ "durability: flash", ":5: durability: expected local, received" },
	{ "durability: local, applied", ":5: durability: expected" },
	{ "durability: flags=local,flags=local", ":5: durability: expected" },
	{ "durability: local,", ":5: durability: expected" },
	{ "durability: mail=local", ":5: durability: expected" },
	{ "start_wait: ten", ":5: start_wait: expected a time such as" },
	{ "start_wait: 10 y", ":5: start_wait: expected a time" },
	{ "start_wait: -1", ":5: start_wait: expected a time" },
	{ "start_wait: 2d",
		":5: start_wait: expected a time such as 500ms, 10s, 5m, 2h or 7d "
		"from 0ms to 1d, not \"2d\"" },
	{ "start_wait: 99999999999999999999999", ":5: start_wait: expected a time" },
	{ "rate: 1K", ":5: rate: expected none, or bytes a second such as 500K or 2M "
		      "from 32K to" },
	{ "rate: some", ":5: rate: expected none, or bytes a second" },
	{ "journal_size: 1K",
		":5: journal_size: expected a size such as 512M or 1G from 1M to 16T" },
	{ "journal_size: 18446744073709551615G", ":5: journal_size: expected a size" },
	{ "threads: 0", ":5: threads: expected a number from 1 to 40, not \"0\"" },
	{ "threads: 4k", ":5: threads: expected a number" },
	{ "xattr: true", ":5: xattr: expected one of no, yes" },
	{ "log: loud", ":5: log: expected one of error, warning, info, debug" },
};

TEST(wrong_lines)
{
	char text[1024];

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		snprintf(text, sizeof(text), "%s%s\n", NEEDED, bad[i].line);
		if (parse(text) != ERR_CONF || strstr(told, bad[i].told) == NULL) {
			t_fail(__FILE__, __LINE__, "%s: told \"%s\"", bad[i].line,
				told);
			return;
		}
	}
}

TEST(all_are_told)
{
	CHECK_EQ(parse("role: x\nlog: y\n"), ERR_CONF);
	CHECK(strstr(told, ":1: role:") != NULL);
	CHECK(strstr(told, ":2: log:") != NULL);
	CHECK(strstr(told, "/x/a.conf: spool: expected a line with this key") != NULL);
	CHECK(strstr(told, "/x/a.conf: mountpoint:") != NULL);
}

TEST(trees_do_not_nest)
{
	CHECK_EQ(parse("mountpoint: /m\nspool: /m/s\nstate: /t\nname: a\n"), ERR_CONF);
	CHECK(strstr(told, ":2: spool: expected a folder neither") != NULL);
	CHECK_EQ(parse("mountpoint: /s/m\nspool: /s\nstate: /t\nname: a\n"), ERR_CONF);
	CHECK_EQ(parse("mountpoint: /m\nspool: /s\nstate: /s/t\nname: a\n"), ERR_CONF);
	CHECK(strstr(told, ":3: state:") != NULL);
	CHECK_EQ(parse("mountpoint: /m\nspool: /mm\nstate: /mmm\nname: a\n"), 0);
}

TEST(too_many_peers)
{
	struct buf b = BUF_INIT;

	buf_printf(&b, "%s", NEEDED);
	for (int i = 0; i < CONF_PEERS_MAX; i++)
		buf_printf(&b, "peer: p%d h:1 sha256:%02x%s\n", i, i, &PRINT_A[2]);
	int whole = parse(buf_str(&b));
	buf_printf(&b, "peer: more h:1 sha256:" PRINT_A "\n");
	int over = parse(buf_str(&b));
	buf_fini(&b);
	CHECK_EQ(whole, 0);
	CHECK_EQ(over, ERR_CONF);
	CHECK(strstr(told, "at most 16 times") != NULL);
}

/* Whatever the bytes are: no crash, and an accepted file has its needed keys. */
TEST(any_bytes)
{
	static const char *const seeds[] = { NEEDED, "peer: b h:1 sha256:" PRINT_A "\n",
		"durability: flushed, flags=local\n", "listen: [::1]:7\n" };
	char text[512];

	for (int round = 0; round < 20000; round++) {
		size_t len = (size_t)snprintf(
			text, sizeof(text), "%s%s", NEEDED, seeds[t_rand() % 4]);
		for (int edits = (int)(t_rand() % 4); edits > 0; edits--)
			text[t_rand() % len] = (char)t_rand();
		struct buf out = BUF_INIT;
		int rc = conf_parse("f", text, len, &conf, &out);
		bool silent = out.len == 0;
		buf_fini(&out);
		CHECK_EQ(rc == 0, silent);
		if (rc == 0)
			CHECK(conf.mountpoint[0] == '/' && conf.name[0] != '\0');
	}
}

TEST(load_file)
{
	char path[512];
	struct buf out = BUF_INIT;

	snprintf(path, sizeof(path), "%s/a.conf", t_tmpdir());
	CHECK_EQ(conf_load(path, &conf, &out), ERR_NOTFOUND);
	CHECK(strstr(buf_str(&out), "a.conf: No such file") != NULL);
	buf_clear(&out);
	CHECK_EQ(conf_load(t_tmpdir(), &conf, &out), ERR_LIMIT);
	buf_clear(&out);
	int fd = open(path, O_CREAT | O_WRONLY, 0600);
	CHECK(write(fd, NEEDED, strlen(NEEDED)) == (ssize_t)strlen(NEEDED));
	close(fd);
	CHECK_EQ(conf_load(path, &conf, &out), 0);
	CHECK_EQ(out.len, 0);
	CHECK_STR(conf.path, path);
	buf_fini(&out);
}

/* The manual has each key, and its default. */
TEST(the_manual_knows_every_key)
{
	const char *dir = getenv("TWINSPOOL_MAN");
	char path[512], item[128];
	struct buf text = BUF_INIT;
	size_t n = 1;

	snprintf(path, sizeof(path), "%s/twinspool.conf.5",
		dir != NULL ? dir : "docs/man");
	FILE *f = fopen(path, "r");
	CHECK(f != NULL);
	while (n > 0) {
		uint8_t *room = buf_room(&text, 4096);
		n = room != NULL ? fread(room, 1, 4096, f) : 0;
		text.len += n;
	}
	fclose(f);
	const char *missing = NULL;
	for (unsigned i = 0; conf_key_name(i) != NULL; i++) {
		snprintf(item, sizeof(item), ".It Ic %s : ", conf_key_name(i));
		if (strstr(buf_str(&text), item) == NULL)
			missing = conf_key_name(i);
	}
	buf_fini(&text);
	CHECK(missing == NULL);
}

T_MAIN
