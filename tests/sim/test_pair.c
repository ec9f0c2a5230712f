/*
 * test_pair.c - stories of a whole pair: real replication over TLS through a bad line, a writer
 * that changes mailboxes as Cyrus would, and deaths on both sides.
 *
 * The active node runs here, between the writer and the line; the standby is a process of its own
 * (this program with --standby), so that SIGKILL is real; and with it goes, three times of four, the
 * power: what the standby had not synced, state and spool, is lost in part or in whole (power.h). A
 * death of the active is a stop without a clean mark after commits that it was never told of.
 * Every story ends with a whole line: then both sides must prove each other equal, and their
 * files must be.
 *
 * What is done in a story follows from T_SEED, its number and the number of the step alone: never
 * from time, nor from how far the standby is. So a seed repeats the story to the letter; when each
 * of its threads runs, and so which bytes the line's faults hit, the kernel decides anew. A
 * story that fails prints its steps. To see it again, and to find which steps matter:
 *
 *   T_SEED=N SIM_STORY=2 SIM_SKIP=3,17-40 build/tests/sim/test_pair stories
 *
 * runs only that one and leaves those steps out, without a change to the others' choices.
 * SIM_STORIES and SIM_STEPS make it longer; SIM_WITHOUT leaves out what its letters say: k kills
 * of the standby, p losses of power, r its clean restarts, c crashes of the active, l faults of
 * the line, m moves of folders, d removals, f plain files, j short journals (SIM_SHORT: in every
 * story). It is "p" unless given, but for a few stories with a seed of their own.
 * SIM_DEBUG prints all that either side logs.
 */
#include "sync/keygen.h"
#include "sync/loop.h"
#include "sync/sync.h"
#include "meta/base/buf.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/hash.h"
#include "meta/base/log.h"
#include "meta/scan.h"
#include "meta/spool.h"
#include "tests/lib/badline.h"
#include "tests/lib/duo.h"
#include "tests/lib/rig.h"
#include "tests/lib/t.h"
#include "tests/sim/power.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MBOXES = 3, WAIT_MS = 30000 };

static uint64_t journal_size = 64 << 20;

/* --- the standby's process -------------------------------------------------------------- */

static struct sync *
node_open(const char *name, const char *root, const char *state, enum sync_role role,
	const char *listen, struct sync_peer_conf *peer, struct spool **spool_out)
{
	/* sync keeps the pointers */
	static struct sync_conf conf;
	struct sync *s;
	int rc;

	conf = (struct sync_conf){ .name = name,
		.state = state,
		.listen = listen,
		.role = role,
		.spool_id = name,
		.peers = peer,
		.n_peers = 1,
		.journal_size = journal_size,
		.journal_age = 3600000 };
	if ((rc = spool_open(root, spool_out)) != 0 ||
		(rc = sync_open(&conf, *spool_out, NULL, &s)) != 0 ||
		(rc = sync_start(s)) != 0) {
		log_err("sim: node does not start: name=%s: %s", name, err_text(rc));
		abort();
	}
	return s;
}

/* --standby ROOT STATE PORT PRINT DISK LOG: until standard input ends. */
static int
standby(char **argv)
{
	struct sync_peer_conf peer;
	struct spool *spool;
	char listen[40], byte;

	log_open("standby", false,
		getenv("SIM_DEBUG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARN);
	if (argv[4][0] != '\0')
		power_record(argv[4], argv[5]);
	duo_peer(&peer, "a", argv[3], 0);
	snprintf(listen, sizeof(listen), "127.0.0.1:%s", argv[2]);
	struct sync *s =
		node_open("b", argv[0], argv[1], SYNC_STANDBY, listen, &peer, &spool);
	while (read(STDIN_FILENO, &byte, 1) > 0)
		continue;
	sync_stop(s, true);
	spool_close(spool);
	return 0;
}

/* --- the story's cast ------------------------------------------------------------------- */

static struct {
	char dir[260];
	char root_a[300], state_a[300], root_b[300], state_b[300];
	char disk_b[280], log_b[290];
	struct power *power_b; /* NULL: its power does not fail */
	char print_a[KEYGEN_PRINT_LEN], print_b[KEYGEN_PRINT_LEN];
	unsigned port;
	struct spool *spool;
	struct sync *sync;
	struct sync_peer_conf peer;
	struct rig rigs[MBOXES];
	pid_t b;
	int b_stdin;
	unsigned b_back; /* it is down until that step */
	unsigned number, at; /* the story, and the step that is done */
	struct buf told; /* what was done, one line a step */
	struct loop *loop; /* the line's */
	struct badline *line;
	pthread_t line_thread;
	unsigned commits, kills, crashes, restarts, lost;
	_Atomic bool bad; /* an error line that no story explains */
} st;

static void
on_log(enum log_level level, const char *line)
{
	if (getenv("SIM_DEBUG") != NULL || level == LOG_LEVEL_ERR)
		fprintf(stderr, "# a: %s\n", line);
	if (level == LOG_LEVEL_ERR)
		st.bad = true;
}

static void
b_start(void)
{
	char port[16];
	int fds[2];

	snprintf(port, sizeof(port), "%u", st.port);
	if (pipe2(fds, O_CLOEXEC) != 0)
		abort();
	st.b = fork();
	if (st.b == 0) {
		dup2(fds[0], STDIN_FILENO);
		execl("/proc/self/exe", "test_pair", "--standby", st.root_b, st.state_b,
			port, st.print_a, st.power_b != NULL ? st.disk_b : "", st.log_b,
			(char *)NULL);
		_exit(127);
	}
	close(fds[0]);
	st.b_stdin = fds[1];
}

/* by_signal: SIGKILL, else asked to stop. False if it did not end well. */
static bool
b_stop(bool by_signal)
{
	int status = 0;

	if (st.b == 0)
		return true;
	if (by_signal)
		kill(st.b, SIGKILL);
	close(st.b_stdin);
	waitpid(st.b, &status, 0);
	st.b = 0;
	return by_signal || (WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void
a_start(void)
{
	duo_peer(&st.peer, "b", st.print_b, badline_port(st.line));
	st.sync = node_open(
		"a", st.root_a, st.state_a, SYNC_ACTIVE, NULL, &st.peer, &st.spool);
	for (unsigned i = 0; i < MBOXES; i++)
		st.rigs[i].sp = st.spool;
}

static void
a_stop(bool clean)
{
	sync_stop(st.sync, clean);
	spool_close(st.spool);
	st.sync = NULL;
}

static void *
line_main(void *arg)
{
	loop_run(arg);
	return NULL;
}

static pthread_mutex_t faults_lock = PTHREAD_MUTEX_INITIALIZER;
static struct badline_faults faults;

static void
on_faults(void *arg)
{
	struct badline_faults now;

	(void)arg;
	pthread_mutex_lock(&faults_lock);
	now = faults;
	pthread_mutex_unlock(&faults_lock);
	badline_set(st.line, &now);
}

static void
on_cut(void *arg)
{
	(void)arg;
	badline_cut(st.line);
}

static struct loop_call set_faults = { .fn = on_faults }, cut_line = { .fn = on_cut };

static void
line_set(struct badline_faults f)
{
	pthread_mutex_lock(&faults_lock);
	faults = f;
	pthread_mutex_unlock(&faults_lock);
	loop_raise(st.loop, &set_faults);
}

/* From here on the choices of that step. 0: those before the first. */
static void
choose(unsigned at)
{
	st.at = at;
	t_rand_from(st.number * 100000u + at);
}

/* Is this kind of thing in the stories? */
static bool
with(char letter)
{
	const char *without = getenv("SIM_WITHOUT");

	return strchr(without != NULL ? without : "p", letter) == NULL;
}

static void
story_open(unsigned story)
{
	char cmd[700];

	st.number = story;
	choose(0);
	buf_clear(&st.told);
	snprintf(st.dir, sizeof(st.dir), "%s/%u", t_tmpdir(), story);
	snprintf(st.root_a, sizeof(st.root_a), "%s/a/spool", st.dir);
	snprintf(st.state_a, sizeof(st.state_a), "%s/a/state", st.dir);
	snprintf(st.disk_b, sizeof(st.disk_b), "%s/b", st.dir);
	snprintf(st.log_b, sizeof(st.log_b), "%s.log", st.disk_b);
	snprintf(st.root_b, sizeof(st.root_b), "%s/spool", st.disk_b);
	snprintf(st.state_b, sizeof(st.state_b), "%s/state", st.disk_b);
	snprintf(cmd, sizeof(cmd), "mkdir -p %s %s", st.root_a, st.root_b);
	if (system(cmd) != 0 || keygen_make(st.state_a, st.print_a) != 0 ||
		keygen_make(st.state_b, st.print_b) != 0)
		abort();
	st.power_b = with('p') ? power_open(st.disk_b, st.log_b) : NULL;
	st.commits = st.kills = st.crashes = st.restarts = st.lost = 0;
	st.bad = false;
	/* In every second story one that holds only a few batches: then sums are compared. */
	journal_size = (t_rand() % 2 != 0 || getenv("SIM_SHORT") != NULL) && with('j')
			       ? 3000 + t_rand() % 20000
			       : 64 << 20;
	st.port = t_free_port();
	loop_open(&st.loop);
	if (badline_open(st.loop, st.port, t_rand(), &st.line) != 0)
		abort();
	pthread_create(&st.line_thread, NULL, line_main, st.loop);
	b_start();
	a_start();
	for (unsigned i = 0; i < MBOXES; i++) {
		char dir[40], id[40];
		snprintf(dir, sizeof(dir), "box/m%u", i);
		snprintf(id, sizeof(id), "id-%u-%u", story, i);
		rig_init(&st.rigs[i], st.spool, dir, id,
			i == 0   ? 19
			: i == 1 ? 17
				 : 20);
	}
}

static void
story_close(void)
{
	loop_stop(st.loop);
	pthread_join(st.line_thread, NULL);
	loop_call_cancel(st.loop, &set_faults);
	loop_call_cancel(st.loop, &cut_line);
	badline_close(st.line);
	loop_close(st.loop);
	for (unsigned i = 0; i < MBOXES; i++)
		rig_fini(&st.rigs[i]);
	buf_fini(&st.told);
	power_close(st.power_b);
}

/* --- what the writer does --------------------------------------------------------------- */

/* What was done since the last commit is in the files; told: the capture saw it. */
static void
committed(struct rig *g, bool told)
{
	duo_tell(told ? st.sync : NULL, g);
	st.commits++;
}

static void
copy_some(struct rig *g)
{
	struct rig *from = &st.rigs[t_rand() % MBOXES];
	char name[SCAN_BODY_NAME];
	struct stat file;
	uint32_t uid = from->exists ? rig_any(from) : 0, to;

	if (uid == 0 || from == g)
		return;
	to = rig_copy(g, from, uid);
	if (spool_stat(g->sp, g->dir, scan_body_name(to, name), &file) != 0)
		abort();
	sync_linked(st.sync, file.st_ino, from->dir, uid);
	sync_linked(st.sync, file.st_ino, g->dir, to);
	rig_commit(g);
}

/* Notes come before the change (design 4): after a death nothing else says that it was. */
static void
note(const char *path)
{
	if (sync_note(st.sync, path, 0) != 0)
		abort();
}

static void
note_leaving(const char *path)
{
	if (sync_note_leaving(st.sync, path, 0) != 0)
		abort();
}

static void
create(struct rig *g, bool told)
{
	note("box");
	note(g->dir);
	spool_mkdirs(g->sp, g->dir, 0700, 8, 8);
	rig_create(g);
	committed(g, told);
}

/* The unlinks of a repack are seen one by one, before they are done. */
static void
repack(struct rig *g, bool told)
{
	for (uint32_t i = 0; i < g->h.num_records; i++)
		if ((g->rec[i].flags & INDEX_FLAG_UNLINKED) != 0)
			sync_keep_body(st.sync, g->dir, g->rec[i].uid);
	rig_repack(g, 0);
	committed(g, told);
}

/* The folder gets another name, as RENAME does in the layout by id. */
static void
move(struct rig *g, bool told)
{
	char to[sizeof(g->dir)];
	struct sync_moving *m = NULL;

	snprintf(to, sizeof(to), "box/r%llu", (unsigned long long)(t_rand() % 1000000));
	note_leaving(g->dir);
	note(to);
	if (told && sync_move_begin(st.sync, sync_names(st.sync), g->dir, to, &m) != 0)
		abort();
	if (spool_move(g->sp, g->dir, to) != 0)
		abort();
	if (told)
		sync_move_end(st.sync, m, SYNC_MOVED);
	snprintf(g->dir, sizeof(g->dir), "%s", to);
	st.commits++;
}

/* DELETE: the option bit is the commit, then everything goes. */
static void
removal(struct rig *g, bool told)
{
	char cmd[700], id[40], dir[40];
	unsigned i = (unsigned)(g - st.rigs);

	/* Or an administrator's rm -r: the folder's going is all that is said of it. */
	if (t_rand() % 4 != 0) {
		rig_options(g, g->h.options | INDEX_OPT_DELETED);
		rig_commit(g);
		committed(g, told);
	}
	/* Cyrus unlinks what the folder lists, in that order. */
	if (t_rand() % 2)
		(void)spool_unlink(g->sp, g->dir, "cyrus.index");
	for (uint32_t r = 0; r < g->h.num_records; r++)
		sync_keep_body(st.sync, g->dir, g->rec[r].uid);
	note_leaving(g->dir);
	snprintf(cmd, sizeof(cmd), "rm -rf %s/%s", st.root_a, g->dir);
	if (system(cmd) != 0)
		abort();
	if (told)
		sync_path(st.sync, g->dir, 0, NULL, NULL);
	rig_fini(g);
	snprintf(id, sizeof(id), "id-%llu", (unsigned long long)t_rand());
	snprintf(dir, sizeof(dir), "box/n%llu",
		(unsigned long long)(t_rand() % 1000000));
	rig_init(g, st.spool, dir, id, i == 0 ? 19 : i == 1 ? 17 : 20);
}

/* What is done beside the seq it gets. */
static void
tell(const char *what, const char *dir)
{
	struct sync_facts f;

	sync_facts(st.sync, &f);
	buf_printf(&st.told, "# step %u: %s %s last=%llu\n", st.at, what, dir,
		(unsigned long long)f.position.seq);
	if (getenv("SIM_DEBUG") != NULL)
		fprintf(stderr, "# step %u: %s %s last=%llu\n", st.at, what, dir,
			(unsigned long long)f.position.seq);
}

/* What is no mailbox's: written anew, renamed over, or removed. */
static void
plain_file(bool told)
{
	static char text[200000];
	char name[20], path[40];
	size_t n = t_rand() % 5 ? t_rand() % 500 : t_rand() % sizeof(text);

	snprintf(name, sizeof(name), "f%llu", (unsigned long long)(t_rand() % 6));
	snprintf(path, sizeof(path), "files/%s", name);
	note("files");
	note_leaving(path);
	spool_mkdirs(st.spool, "files", 0700, 8, 8);
	if (told)
		sync_path(st.sync, "files", 0, NULL, NULL);
	for (size_t i = 0; i < n; i++)
		text[i] = (char)t_rand();
	bool drop = t_rand() % 4 == 0;
	tell(drop ? "unlink" : "write", path);
	if (drop)
		(void)spool_unlink(st.spool, "files", name);
	else if (spool_replace(st.spool, "files", name, text, n, 0600, 8, 8) != 0)
		abort();
	if (told)
		sync_path(st.sync, path, 0, NULL, NULL);
	st.commits++;
}

static void
write_some(bool told)
{
	struct rig *g = &st.rigs[t_rand() % MBOXES];
	uint64_t what = t_rand() % 40;

	if (what < 3 && with('f')) {
		plain_file(told);
	} else if (!g->exists) {
		tell("create", g->dir);
		create(g, told);
	} else if (what < 5 && with('m')) {
		tell("move", g->dir);
		move(g, told);
	} else if (what < 6 && with('d')) {
		tell("removal", g->dir);
		removal(g, told);
	} else if (what < 9) {
		tell("repack", g->dir);
		repack(g, told);
	} else if (what < 16) {
		tell("copy", g->dir);
		copy_some(g);
		committed(g, told);
	} else {
		tell("random", g->dir);
		rig_random(g);
		committed(g, told);
	}
}

/* The active dies with commits on disk that it was not told of, and comes back. */
static void
crash_a(void)
{
	for (uint64_t n = t_rand() % 3; n > 0; n--)
		write_some(false);
	a_stop(false);
	a_start();
	st.crashes++;
}

/* Is the step left out? SIM_SKIP is a list like 3,17-40. */
static bool
is_skipped(unsigned at)
{
	const char *p = getenv("SIM_SKIP");
	char *end;

	while (p != NULL && *p != '\0') {
		unsigned long from = strtoul(p, &end, 10), to = from;
		if (end == p)
			return false;
		if (*end == '-')
			to = strtoul(end + 1, &end, 10);
		if (at >= from && at <= to)
			return true;
		p = *end == ',' ? end + 1 : end;
	}
	return false;
}

/* Now and then only the process dies. */
static void
b_loses_power(void)
{
	struct power_facts f;

	if (st.power_b == NULL)
		return;
	power_cut(st.power_b,
		t_rand() % 4 == 0   ? POWER_KEEP_ALL
		: t_rand() % 3 == 0 ? POWER_DROP_ALL
				    : POWER_ANY,
		t_rand, &f);
	st.lost += f.lost_names + f.lost_writes;
	if (getenv("SIM_DEBUG") != NULL)
		fprintf(stderr,
			"# its disk lost: names=%u files=%u of ops=%u syncs=%u\n",
			f.lost_names, f.lost_writes, f.ops, f.syncs);
}

static void
line_turns_bad(void)
{
	struct badline_faults f = { .cut = t_rand() % 3 ? 300 : 0,
		.flip = t_rand() % 3 ? 0 : 300,
		.stall = t_rand() % 2 ? 30 : 0,
		.stall_ms = 30 };

	tell("the line has faults", "");
	line_set(f);
}

static void
step(unsigned at)
{
	choose(at);
	if (st.b == 0 && at >= st.b_back) {
		tell("b starts", "");
		b_start();
	}
	if (is_skipped(at))
		return;
	uint64_t what = t_rand() % 100;
	if (what < 4 && st.b != 0 && with('k')) {
		tell("b is killed", "");
		b_stop(true);
		b_loses_power();
		st.b_back = at + 1 + (unsigned)(t_rand() % (t_rand() % 3 ? 4 : 60));
		st.kills++;
	} else if (what < 6 && st.b != 0 && with('r')) {
		tell("b is stopped", "");
		st.bad |= !b_stop(false);
		st.b_back = at + 1;
		st.restarts++;
	} else if (what < 9 && with('c')) {
		tell("a crashes", "");
		crash_a();
	} else if (what < 13 && with('l')) {
		line_turns_bad();
	} else if (what < 15 && with('l')) {
		tell("the line is cut", "");
		loop_raise(st.loop, &cut_line);
	} else {
		write_some(true);
	}
	usleep(t_rand() % 8 == 0 ? t_rand() % 20000 : t_rand() % 500);
}

/* Both at rest, then file by file. */
static void
compare(void)
{
	struct spool *a, *b;
	char cmd[900], name[SCAN_BODY_NAME];
	const char *how;

	CHECK(spool_open(st.root_a, &a) == 0 && spool_open(st.root_b, &b) == 0);
	for (unsigned i = 0; i < MBOXES; i++) {
		struct rig *g = &st.rigs[i];
		if (!g->exists)
			continue;
		how = rig_differ(a, g->dir, b, g->dir);
		if (how != NULL)
			t_fail(__FILE__, __LINE__, "%s: %s", g->dir, how);
	}
	/* Cyrus unlinks when it says so; the rig only with its next repack. */
	for (unsigned i = 0; i < MBOXES; i++)
		for (uint32_t r = 0; r < st.rigs[i].h.num_records; r++)
			if ((st.rigs[i].rec[r].flags & INDEX_FLAG_UNLINKED) != 0)
				(void)spool_unlink(a, st.rigs[i].dir,
					scan_body_name(st.rigs[i].rec[r].uid, name));
	spool_close(a);
	spool_close(b);
	/* Nothing too many, nothing too few; the files of Cyrus's own formats were compared. */
	snprintf(cmd, sizeof(cmd),
		"diff -rq --no-dereference -x .twinspool -x 'cyrus.*' %s %s >&2",
		st.root_a, st.root_b);
	CHECK_EQ(system(cmd), 0);
}

/* What each side has, when they do not agree. */
static void
list_both(void)
{
	char cmd[900];

	snprintf(cmd, sizeof(cmd),
		"cd %s && diff -rq --no-dereference -x .twinspool a/spool b/spool >&2;"
		"for d in ?/spool/box/*; do cksum $d/cyrus.index >&2; done",
		st.dir);
	if (system(cmd) != 0)
		fprintf(stderr, "# cannot list\n");
}

static void
story(unsigned n, unsigned steps)
{
	struct buf lack = BUF_INIT;
	int rc;

	story_open(n);
	for (unsigned i = 1; i <= steps && !st.bad; i++)
		step(i);
	line_set((struct badline_faults){ 0 });
	if (st.b == 0)
		b_start();
	uint64_t t0 = clock_ms();
	/* A repair may still be under way: until it is through, the proof says so. */
	while ((rc = sync_prove(st.sync, WAIT_MS, NULL, NULL, &lack)) == ERR_SUM &&
		clock_ms() - t0 < WAIT_MS)
		usleep(100000);
	printf("# story %u: commits=%u kills=%u lost=%u crashes=%u restarts=%u "
	       "faults=%u "
	       "equal after %llu ms\n",
		n, st.commits, st.kills, st.lost, st.crashes, st.restarts,
		badline_count(st.line), (unsigned long long)(clock_ms() - t0));
	if (rc != 0) {
		list_both();
		t_fail(__FILE__, __LINE__, "story %u: not equal: %s: %s", n,
			err_text(rc), buf_str(&lack));
	}
	if (st.bad)
		t_fail(__FILE__, __LINE__, "story %u: an error that nothing explains",
			n);
	a_stop(true);
	if (!b_stop(false))
		t_fail(__FILE__, __LINE__, "story %u: the standby ended badly", n);
	if (rc == 0)
		compare();
	if (t_failed())
		printf("%s", buf_str(&st.told));
	story_close();
	buf_fini(&lack);
}

static unsigned
from_env(const char *name, unsigned usual)
{
	const char *text = getenv(name);

	return text != NULL ? (unsigned)strtoul(text, NULL, 10) : usual;
}

TEST(stories_of_a_pair)
{
	unsigned stories = from_env("SIM_STORIES", 4),
		 steps = from_env("SIM_STEPS", 150);

	log_set_hook(on_log);
	if (getenv("SIM_DEBUG") != NULL)
		log_set_level(LOG_LEVEL_DEBUG);
	for (unsigned i = 0; i < stories && !t_failed(); i++)
		if (getenv("SIM_STORY") == NULL || from_env("SIM_STORY", 0) == i)
			story(i, steps);
}

/* With losses of power and short journals, which is not the usual run: those that something was wrong
 * with once. Each is this program again, for a seed is for all of one. */
TEST(stories_that_found_something)
{
	static const char *const of[][2] = { { "21301846982026", "3" },
		{ "21307155853548", "0" }, { "21331045775397", "3" },
		{ "21269993752894", "0" }, { "21333700211158", "2" } };
	char cmd[900], log[300];

	if (getenv("SIM_STORY") != NULL)
		return; /* somebody looks at one of his own */
	snprintf(log, sizeof(log), "%s/story.log", t_tmpdir());
	for (size_t i = 0; i < sizeof(of) / sizeof(of[0]); i++) {
		snprintf(cmd, sizeof(cmd),
			"T_SEED=%s SIM_STORY=%s SIM_WITHOUT= SIM_SHORT=1 "
			"/proc/%d/exe stories_of_a_pair >%s 2>&1 || "
			"{ sed 's/^/# /' %s; false; }",
			of[i][0], of[i][1], (int)getpid(), log, log);
		if (system(cmd) != 0)
			t_fail(__FILE__, __LINE__, "seed %s, story %s", of[i][0],
				of[i][1]);
	}
}

/* The counters are published now and then: until they stand still. */
static void
settled_facts(struct sync_facts *out)
{
	uint64_t last = 0;

	do {
		last = out->peers[0].wire_sent;
		usleep(300000);
		sync_facts(st.sync, out);
	} while (out->peers[0].wire_sent != last || last == 0);
}

static uint64_t
sent_since(const struct sync_facts *from, const struct sync_facts *to,
	enum sync_change kind, bool bytes)
{
	const struct sync_change_facts *x = &from->peers[0].sent_changes[kind],
				       *y = &to->peers[0].sent_changes[kind];

	return bytes ? y->bytes - x->bytes : y->n - x->n;
}

/* Design 10: what one change of a flag costs on the wire, each in a burst of its own. */
TEST(cost_of_a_flag_change)
{
	enum { CHANGES = 100, MOST = 80 };
	static struct sync_facts before, after;
	struct rig *g = &st.rigs[0];

	log_set_hook(on_log);
	story_open(0);
	create(g, true);
	for (int i = 0; i < 5; i++)
		rig_append(g, 500);
	rig_commit(g);
	committed(g, true);
	CHECK_EQ(sync_wait(st.sync, WAIT_MS, NULL, NULL, NULL), 0);
	settled_facts(&before);
	for (int i = 0; i < CHANGES; i++) {
		rig_flag(g, 1 + (uint32_t)i % 5, i % 2 ? 2 : 0x10);
		rig_commit(g);
		committed(g, true);
		CHECK_EQ(sync_wait(st.sync, WAIT_MS, NULL, NULL, NULL), 0);
	}
	settled_facts(&after);
	uint64_t each =
		(after.peers[0].wire_sent - before.peers[0].wire_sent) / CHANGES;
	printf("# a flag change: %llu bytes on the wire, %llu before deflate and TLS\n",
		(unsigned long long)each,
		(unsigned long long)(after.peers[0].raw_sent -
				     before.peers[0].raw_sent) /
			CHANGES);
	CHECK(each <= MOST);
	for (unsigned k = 0; k < SYNC_CHANGES; k++)
		CHECK_EQ(sent_since(&before, &after, k, false),
			k == SYNC_CHANGE_FLAGS ? CHANGES : 0);
	uint64_t booked =
		sent_since(&before, &after, SYNC_CHANGE_FLAGS, true) / CHANGES;
	printf("# of which the batch itself: %llu\n", (unsigned long long)booked);
	CHECK(booked > each / 3 && booked < each);
	a_stop(true);
	CHECK(b_stop(false));
	story_close();
}

int
main(int argc, char **argv)
{
	if (argc == 8 && strcmp(argv[1], "--standby") == 0)
		return standby(argv + 2);
	return t_main(argc, argv);
}
