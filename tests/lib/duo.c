#include "tests/lib/duo.h"

#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/hash.h"
#include "meta/scan.h"
#include "sync/inbox.h"
#include "sync/store.h"
#include "sync/wire.h"
#include "tests/lib/t.h"

#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void
must(int rc, const char *what)
{
	if (rc == 0)
		return;
	fprintf(stderr, "duo: %s: %s\n", what, err_text(rc));
	abort();
}

static struct sync *
node_open(struct sync_conf *conf, const char *root, const struct sync_hooks *hooks,
	struct spool **spool_out)
{
	struct sync *s;

	must(spool_open(root, spool_out), root);
	must(sync_open(conf, *spool_out, hooks, &s), conf->state);
	must(sync_start(s), conf->state);
	return s;
}

void
duo_peer(struct sync_peer_conf *p, const char *name, const char *print, unsigned port)
{
	memset(p, 0, sizeof(*p));
	snprintf(p->name, sizeof(p->name), "%s", name);
	if (port != 0)
		snprintf(p->address, sizeof(p->address), "127.0.0.1:%u", port);
	must(hash_unhex(print + strlen("sha256:"), p->fingerprint, 32), "fingerprint");
}

/* A disk that takes its time with one mailbox. */
static bool
slow_begin(void *arg, const char *dir, const char *name, int fd)
{
	const char *slow = getenv("DUO_SLOW"), *go = getenv("DUO_GO");

	(void)arg, (void)name, (void)fd;
	while (slow != NULL && go != NULL && strcmp(dir, slow) == 0 &&
		access(go, F_OK) != 0)
		usleep(2000);
	return true;
}

static void
slow_end(void *arg, const char *dir, const char *name, int fd)
{
	(void)arg, (void)dir, (void)name, (void)fd;
}

/* --duo-standby ROOT STATE PORT PRINT SIZE AGE: until standard input ends. */
void
duo_main(int argc, char **argv)
{
	struct sync_peer_conf peer;
	struct spool *spool;
	char at[40], byte;

	if (argc != 8 || strcmp(argv[1], "--duo-standby") != 0)
		return;
	log_open("standby", false,
		getenv("SIM_DEBUG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERR);
	duo_peer(&peer, "a", argv[5], 0);
	snprintf(at, sizeof(at), "127.0.0.1:%s", argv[4]);
	struct sync_conf conf = { .name = "b",
		.state = argv[3],
		.listen = at,
		.role = SYNC_STANDBY,
		.spool_id = "b",
		.peers = &peer,
		.n_peers = 1,
		.journal_size = strtoull(argv[6], NULL, 10),
		.journal_age = strtoull(argv[7], NULL, 10),
		.without = getenv("DUO_OLD") != NULL ? WIRE_FEATURES : 0 };
	static const struct sync_hooks hooks = { .begin_in_place = slow_begin,
		.end_in_place = slow_end };
	struct sync *s = node_open(
		&conf, argv[2], getenv("DUO_SLOW") != NULL ? &hooks : NULL, &spool);
	while (read(STDIN_FILENO, &byte, 1) > 0)
		continue;
	sync_stop(s, true);
	spool_close(spool);
	exit(0);
}

void
duo_sh(const char *fmt, ...)
{
	char cmd[1400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	if (system(cmd) != 0) {
		fprintf(stderr, "duo: %s\n", cmd);
		abort();
	}
}

static const char *fatal; /* the line to die at */

void
duo_log(enum log_level level, const char *line)
{
	if (fatal != NULL && strstr(line, fatal) != NULL)
		kill(getpid(), SIGKILL);
	if (getenv("SIM_DEBUG") != NULL)
		fprintf(stderr, "# a: %d %s\n", (int)level, line);
}

void
duo_killed_at(struct duo *d, const char *line)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		fatal = line;
		duo_start_a(d);
		_exit(0);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

void
duo_open(struct duo *d)
{
	const char *base = t_tmpdir();

	if (getenv("SIM_DEBUG") != NULL)
		log_set_level(LOG_LEVEL_DEBUG);
	memset(d, 0, sizeof(*d));
	snprintf(d->root_a, sizeof(d->root_a), "%s/a", base);
	snprintf(d->root_b, sizeof(d->root_b), "%s/b", base);
	snprintf(d->state_a, sizeof(d->state_a), "%s/state-a", base);
	snprintf(d->state_b, sizeof(d->state_b), "%s/state-b", base);
	duo_sh("mkdir -p %s %s", d->root_a, d->root_b);
	must(keygen_make(d->state_a, d->print_a), "keygen");
	must(keygen_make(d->state_b, d->print_b), "keygen");
	d->journal_size = 64 << 20;
	d->journal_age = 3600000;
	d->port = t_free_port();
	d->peer_name = "b";
}

void
duo_close(struct duo *d)
{
	if (d->sync != NULL)
		duo_stop_a(d, true);
	if (d->b != 0)
		duo_stop_b(d, true);
	for (unsigned i = 0; i < d->n_rigs; i++)
		rig_fini(d->rigs[i]);
}

void
duo_start_a(struct duo *d)
{
	static struct sync_conf conf; /* sync keeps the pointers */

	duo_peer(&d->peer, d->peer_name, d->print_b, d->port);
	conf = (struct sync_conf){ .name = "a",
		.state = d->state_a,
		.role = SYNC_ACTIVE,
		.spool_id = "a",
		.peers = &d->peer,
		.n_peers = 1,
		.journal_size = d->journal_size,
		.journal_age = d->journal_age,
		.piece = d->piece,
		.rate = d->rate,
		.takeover = d->takeover,
		.level = { d->level, d->level, d->level },
		.level_limit = 3600000 };
	d->sync = node_open(&conf, d->root_a, &d->hooks, &d->spool);
	for (unsigned i = 0; i < d->n_rigs; i++)
		d->rigs[i]->sp = d->spool;
}

void
duo_stop_a(struct duo *d, bool clean)
{
	sync_stop(d->sync, clean);
	spool_close(d->spool);
	d->sync = NULL;
	d->spool = NULL;
}

void
duo_start_b(struct duo *d)
{
	char port[16], size[32], age[32];
	int fds[2];

	snprintf(port, sizeof(port), "%u", d->port);
	snprintf(size, sizeof(size), "%llu", (unsigned long long)d->journal_size);
	snprintf(age, sizeof(age), "%llu", (unsigned long long)d->journal_age);
	if (pipe2(fds, O_CLOEXEC) != 0)
		abort();
	d->b = fork();
	if (d->b == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves nobody */
		dup2(fds[0], STDIN_FILENO);
		execl("/proc/self/exe", "duo", "--duo-standby", d->root_b, d->state_b,
			port, d->print_a, size, age, (char *)NULL);
		_exit(127);
	}
	close(fds[0]);
	d->b_stdin = fds[1];
}

void
duo_stop_b(struct duo *d, bool by_signal)
{
	int status = 0;

	if (by_signal)
		kill(d->b, SIGKILL);
	close(d->b_stdin);
	if (waitpid(d->b, &status, 0) != d->b ||
		(!by_signal && (!WIFEXITED(status) || WEXITSTATUS(status) != 0)))
		abort();
	d->b = 0;
}

/* ---- mailboxes ---- */

void
duo_tell(struct sync *s, struct rig *g)
{
	struct sync_commit c = { .dir = g->dir,
		.touched = g->touched,
		.n_touched = g->n_touched,
		.annots = g->annots_touched,
		.old_index = g->old_index,
		.old_size = g->old_size };

	if (s != NULL)
		sync_commit(s, &c);
	g->state.header.num_records = g->h.num_records;
	g->n_touched = 0;
	g->annots_touched = false;
	free(g->old_index);
	g->old_index = NULL;
}

void
duo_create(struct duo *d, struct rig *g, const char *dir, const char *id)
{
	unsigned i = 0;

	while (i < d->n_rigs && d->rigs[i] != g)
		i++;
	if (i == DUO_RIGS)
		abort();
	d->rigs[i] = g;
	d->n_rigs += i == d->n_rigs;
	rig_init(g, d->spool, dir, id, 17);
	must(sync_note(d->sync, "box", 0), "note");
	must(sync_note(d->sync, dir, 0), "note");
	rig_create(g);
	sync_path(d->sync, "box", 0, NULL, NULL);
	duo_tell(d->sync, g);
}

bool
duo_two(struct duo *d, struct rig *a, struct rig *b)
{
	log_set_hook(duo_log);
	duo_open(d);
	duo_start_b(d);
	duo_start_a(d);
	duo_create(d, a, "box/a", "id-a");
	duo_create(d, b, "box/b", "id-b");
	for (int i = 0; i < 3; i++)
		rig_append(a, 500);
	duo_commit(d, a);
	return duo_settled(d);
}

void
duo_commit(struct duo *d, struct rig *g)
{
	rig_commit(g);
	duo_tell(d->sync, g);
}

void
duo_commit_untold(struct rig *g)
{
	rig_commit(g);
	duo_tell(NULL, g);
}

void
duo_cleanup(struct duo *d, struct rig *g)
{
	for (uint32_t i = 0; i < g->h.num_records; i++)
		if ((g->rec[i].flags & INDEX_FLAG_UNLINKED) != 0)
			sync_keep_body(d->sync, g->dir, g->rec[i].uid);
	rig_repack(g, 0);
	duo_tell(d->sync, g);
}

void
duo_copy(struct duo *d, struct rig *to, struct rig *from, uint32_t uid)
{
	char name[SCAN_BODY_NAME];
	struct stat st;

	uint32_t copy = rig_copy(to, from, uid);
	if (spool_stat(d->spool, to->dir, scan_body_name(copy, name), &st) != 0)
		abort();
	sync_linked(d->sync, st.st_ino, from->dir, uid);
	sync_linked(d->sync, st.st_ino, to->dir, copy);
}

void
duo_expunge(struct duo *d, struct rig *g, uint32_t uid)
{
	rig_expunge(g, uid);
	duo_commit(d, g);
	rig_unlink(g, uid);
	duo_commit(d, g);
}

bool
duo_settled(struct duo *d)
{
	struct buf lack = BUF_INIT;
	int rc = sync_wait(d->sync, DUO_WAIT_MS, NULL, NULL, &lack);

	if (rc != 0)
		fprintf(stderr, "# not settled: %s: %s\n", err_text(rc),
			buf_str(&lack));
	buf_fini(&lack);
	return rc == 0;
}

bool
duo_until(struct duo *d, bool (*so)(const struct sync_facts *f, void *arg), void *arg)
{
	static struct sync_facts f;
	uint64_t end = clock_ms() + DUO_WAIT_MS;

	do {
		sync_facts(d->sync, &f);
		if (so(&f, arg))
			return true;
		usleep(5000);
	} while (clock_ms() < end);
	return false;
}

static int
first_aside(void *arg, const struct inbox_quarantine *q)
{
	struct duo_standby *h = arg;

	snprintf(h->check, sizeof(h->check), "%s", q->check);
	snprintf(h->text, sizeof(h->text), "%s", q->text);
	return 1;
}

struct duo_standby
duo_standby(const struct duo *d)
{
	struct duo_standby h = { .asides = 0 };
	struct inbox_facts f;
	struct store *s;
	struct inbox *in;

	if (store_open(d->state_b, &s) != 0 || inbox_open(s, &in) != 0)
		abort();
	inbox_facts(in, &f);
	h.received = f.received;
	h.applied = f.applied;
	h.pending = f.pending;
	h.asides = inbox_quarantine_count(in);
	(void)inbox_quarantine_walk(in, first_aside, &h);
	inbox_close(in);
	store_close(s);
	return h;
}

unsigned
duo_kept(const char *root)
{
	char cmd[400];
	unsigned n = 0;

	snprintf(cmd, sizeof(cmd), "ls %s/.twinspool/kept | wc -l", root);
	FILE *f = popen(cmd, "re");
	if (f == NULL || fscanf(f, "%u", &n) != 1)
		abort();
	pclose(f);
	return n;
}

bool
duo_exists(const char *root, const char *path)
{
	char full[700];

	snprintf(full, sizeof(full), "%s/%s", root, path);
	return access(full, F_OK) == 0;
}

bool
duo_says_aside(const struct sync_facts *f, void *arg)
{
	(void)arg;
	return strstr(f->peers[0].error, " aside: ") != NULL;
}

bool
duo_says_behind(const struct sync_facts *f, void *arg)
{
	(void)arg;
	return strcmp(f->peers[0].state, "behind") == 0;
}

static const char *
differ(const struct duo *d, const struct rig *g)
{
	struct spool *a, *b;

	must(spool_open(d->root_a, &a), d->root_a);
	must(spool_open(d->root_b, &b), d->root_b);
	const char *how = rig_differ(a, g->dir, b, g->dir);
	spool_close(a);
	spool_close(b);
	return how;
}

void
duo_stop_equal(struct duo *d)
{
	duo_stop_a(d, true);
	duo_stop_b(d, false);
	for (unsigned i = 0; i < d->n_rigs; i++) {
		const char *how = differ(d, d->rigs[i]);
		if (how != NULL)
			t_fail(__FILE__, __LINE__, "%s differs: %s", d->rigs[i]->dir,
				how);
	}
}

static uint8_t wanted[SHA1_LEN];

static int
is_wanted(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	uint8_t found[SHA1_LEN];

	(void)st, (void)ftw;
	if (kind != FTW_F)
		return 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	bool same = fd >= 0 && hash_sha1_fd(fd, found, NULL) == 0 &&
		    memcmp(found, wanted, SHA1_LEN) == 0;
	if (fd >= 0)
		close(fd);
	return same;
}

bool
duo_has(const char *root, const uint8_t guid[SHA1_LEN])
{
	memcpy(wanted, guid, SHA1_LEN);
	return nftw(root, is_wanted, 16, FTW_PHYS) == 1;
}
