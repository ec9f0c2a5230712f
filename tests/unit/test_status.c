#include "fs/status.h"
#include "tests/lib/t.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct sync_facts sync_now;
static struct status_facts facts;

static void
prepare(void)
{
	struct sync_peer_facts *p = &sync_now.peers[0];

	memset(&sync_now, 0, sizeof(sync_now));
	facts = (struct status_facts){ .name = "a",
		.mountpoint = "/m",
		.spool = "/s",
		.gate = "open",
		.transport = "uring",
		.supervisor = 10,
		.server = 11,
		.now = 90000000000,
		.started = 5000000000,
		.sync = &sync_now };
	sync_now.role = SYNC_ACTIVE;
	sync_now.position = (struct sync_position){ 3, 2, 4711 };
	sync_now.journal_first = 4000;
	sync_now.journal_bytes = 3 << 20;
	sync_now.n_peers = 1;
	snprintf(p->name, sizeof(p->name), "b");
	snprintf(p->address, sizeof(p->address), "b.example.org:7411");
	snprintf(p->state, sizeof(p->state), "streaming");
	p->sent = 4711;
	p->applied = 4709;
	p->lag_ms = 12;
	p->lag_seqs = 2;
	p->connected = true;
}

static void
quarantine(const char *dir, const char *text)
{
	struct sync_quarantine_facts *q = &sync_now.quarantined[sync_now.n_listed++];

	sync_now.n_quarantined++;
	snprintf(q->dir, sizeof(q->dir), "%s", dir);
	snprintf(q->check, sizeof(q->check), "body.guid");
	snprintf(q->text, sizeof(q->text), "%s", text);
	q->uid = 7;
}

TEST(text_says_it)
{
	struct buf b = BUF_INIT;

	prepare();
	quarantine("user/fred", "reconstruct it");
	status_text(&facts, &b);
	char *text = strdup(buf_str(&b));
	buf_fini(&b);
	CHECK(text != NULL);
	CHECK(strstr(text, "a: active, gate open, epoch 3, run 2\n") != NULL);
	CHECK(strstr(text, "for 1m 25s by uring, supervisor 10, server 11\n") != NULL);
	CHECK(strstr(text, "journal: 4000 to 4711, 3.0 MiB, 0 queued") != NULL);
	CHECK(strstr(text, "peer b at b.example.org:7411: streaming, sent 4711, ") !=
		NULL);
	CHECK(strstr(text, "applied 4709, lag 12 ms, 2 batches\n") != NULL);
	CHECK(strstr(
		text, "quarantined: 1\nuser/fred uid 7: body.guid: reconstruct it\n"));
	CHECK(strstr(text, "catching up") == NULL);
	CHECK(strstr(text, "stalled") == NULL);
	free(text);
}

TEST(catching_up_is_shown)
{
	struct sync_peer_facts *p = &sync_now.peers[0];
	struct buf b = BUF_INIT;

	prepare();
	p->mailboxes_done = 1;
	p->mailboxes_total = 40;
	p->messages_total = 40000;
	p->bytes_done = 2048;
	p->bytes_per_s = 1024;
	p->left_s = 7300;
	status_peers(&facts, &b);
	bool shown = strstr(buf_str(&b),
			     "    catching up: 1 of 40 mailboxes, 0 of 40000 "
			     "messages, 2.0 KiB, 1.0 KiB/s, 2h 1m left\n") != NULL;
	buf_fini(&b);
	CHECK(shown);
}

/* What Python's parser reads back must be what went in, whatever the names are. */
static bool
python_agrees(const char *json, size_t len, const char *check)
{
	char path[512], cmd[2048];
	FILE *f;

	snprintf(path, sizeof(path), "%s/status.json", t_tmpdir());
	f = fopen(path, "w");
	if (f == NULL || fwrite(json, 1, len, f) != len || fclose(f) != 0)
		return false;
	snprintf(cmd, sizeof(cmd),
		"python3 -c 'import "
		"json,sys\nd=json.loads(open(sys.argv[1],\"rb\").read()"
		".decode(\"utf-8\"))\nassert %s, d' '%s'",
		check, path);
	return system(cmd) == 0;
}

TEST(json_of_strange_names)
{
	struct buf b = BUF_INIT;

	prepare();
	quarantine(
		"user/\x01\x7f\"\\\n\t/x", "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x93\xac");
	quarantine("\xff\xc0\x80\xed\xa0\x80\xf4\x90\x80\x80\xc3", "");
	status_json(&facts, &b);
	bool one_line = memchr(b.data, '\n', b.len - 1) == NULL;
	bool ok = python_agrees((const char *)b.data, b.len,
		"d[\"quarantine\"][0][\"mailbox\"]==\"user/\\x01\\x7f\\\"\\\\\\n\\t/"
		"x\" and "
		"d[\"quarantine\"][0][\"text\"]==\"caf\\u00e9 \\u20ac \\U0001f4ec\" "
		"and "
		"set(d[\"quarantine\"][1][\"mailbox\"])==set(\"\\ufffd\") and "
		"d[\"peers\"][0][\"applied\"]==4709 and d[\"peers\"][0][\"catchup\"] "
		"is None "
		"and d[\"pids\"]=={\"supervisor\":10,\"server\":11} and "
		"d[\"epoch\"]==3 and "
		"d[\"clean\"] is False and d[\"journal\"][\"last\"]==4711");
	buf_fini(&b);
	CHECK(one_line);
	CHECK(ok);
}

TEST(what_peers_have_set_aside_is_listed)
{
	struct sync_quarantine_facts *q = sync_now.peer_quarantined;
	struct buf b = BUF_INIT;

	prepare();
	sync_now.peers[0].n_quarantined = 5;
	sync_now.n_peer_listed = 2;
	for (int i = 0; i < 2; i++) {
		snprintf(q[i].dir, sizeof(q[i].dir), "user/%d", i);
		snprintf(q[i].check, sizeof(q[i].check), "has-more");
		snprintf(q[i].text, sizeof(q[i].text), "look");
		q[i].uid = 4;
	}
	status_text(&facts, &b);
	bool text = strstr(buf_str(&b), "quarantined: 0, at peers: 5\n"
					"at b: user/0 uid 4: has-more: look\n"
					"at b: user/1 uid 4: has-more: look\n"
					"at b: and 3 more\n") != NULL;
	buf_clear(&b);
	status_json(&facts, &b);
	bool ok = python_agrees((const char *)b.data, b.len,
		"d[\"quarantined\"]==0 and d[\"peers\"][0][\"quarantined\"]==5 and "
		"[(q[\"peer\"],q[\"mailbox\"]) for q in d[\"peer_quarantine\"]]=="
		"[(\"b\",\"user/0\"),(\"b\",\"user/1\")]");
	buf_fini(&b);
	sync_now.n_peer_listed = 0;
	CHECK(text);
	CHECK(ok);
}

TEST(json_of_any_bytes)
{
	struct buf b = BUF_INIT;

	prepare();
	for (int i = 0; i < 64; i++) {
		char dir[200];
		size_t n = t_rand() % (sizeof(dir) - 1);
		for (size_t k = 0; k < n; k++)
			dir[k] = (char)(t_rand() % 255 + 1);
		dir[n] = '\0';
		quarantine(dir, dir);
	}
	status_json(&facts, &b);
	bool ok = python_agrees(
		(const char *)b.data, b.len, "len(d[\"quarantine\"])==64");
	buf_fini(&b);
	CHECK(ok);
}

TEST(metrics)
{
	struct buf b = BUF_INIT;

	prepare();
	facts.name = "q\"\\\n";
	sync_now.peers[0].sent_changes[SYNC_CHANGE_FLAGS] =
		(struct sync_change_facts){ 3, 150 };
	sync_now.peers[0].sent_other = 70;
	status_metrics(&facts, &b);
	char *text = strdup(buf_str(&b));
	buf_fini(&b);
	CHECK(text != NULL);
	CHECK(strstr(text, "# TYPE twinspool_active gauge\n"
			   "twinspool_active{slot=\"q\\\"\\\\\\n\"} 1\n") != NULL);
	CHECK(strstr(text, "twinspool_peer_lag_milliseconds{slot=\"q\\\"\\\\\\n\","
			   "peer=\"b\"} 12\n") != NULL);
	CHECK(strstr(text,
		"twinspool_peer_connected{slot=\"q\\\"\\\\\\n\",peer=\"b\"} 1\n"));
	CHECK(strstr(text, "twinspool_peer_sent_changes_total{slot=\"q\\\"\\\\\\n\","
			   "peer=\"b\",change=\"flags\"} 3\n") != NULL);
	CHECK(strstr(text,
		      "twinspool_peer_sent_change_bytes_total{slot=\"q\\\"\\\\\\n\","
		      "peer=\"b\",change=\"flags\"} 150\n") != NULL);
	CHECK(strstr(text, ",change=\"other\"} 70\n") != NULL);
	CHECK(strstr(text, "twinspool_uring{slot=\"q\\\"\\\\\\n\"} 1\n") != NULL);
	/* each line is a comment or a name, labels and a number */
	for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n"))
		CHECK(line[0] == '#' || (strncmp(line, "twinspool_", 10) == 0 &&
						strstr(line, "} ") != NULL));
	free(text);
}

T_MAIN
