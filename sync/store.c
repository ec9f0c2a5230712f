/*
 * How it works. What a crash leaves behind: SQLite's own logs bring each file back to its last
 * commit. The two files do not commit together, and need not: no fact is spread over both. They
 * are tied by a random number (one of them moved away or put back from a copy is noticed), and
 * "clean" holds the journal's last seq, so that it never vouches for another journal.
 *
 *   clean   value 0: unclean; n + 1: closed cleanly when the journal's last seq was n
 *   pair    in both files; unequal or missing in the journal: the journal is lost
 *
 * A journal that is lost (moved away, another's, or an older copy of this one, which has less in it
 * than when it was closed cleanly) is emptied, and the mark "adopting" is set before the two are
 * tied: so the spool is adopted anew, also by whoever starts after a crash in between.
 */
#include "sync/store_sql.h"
#include "meta/base/clock.h"
#include "meta/base/disk.h"
#include "meta/base/err.h"
#include "meta/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum { APPLICATION_ID = 0x74777370, SCHEMA_VERSION = 1 };
/* How long a start waits for a process that was killed to let go of the state folder. */
enum { DYING_MS = 10000 };

#define PRAGMAS \
	"PRAGMA journal_mode = WAL; PRAGMA temp_store = MEMORY;" \
	"PRAGMA cell_size_check = ON; PRAGMA journal_size_limit = 67108864;"

static const char journal_schema[] =
	"PRAGMA auto_vacuum = INCREMENTAL;"
	"BEGIN;"
	"CREATE TABLE meta (key TEXT PRIMARY KEY, v INTEGER) WITHOUT ROWID;"
	"CREATE TABLE journal (seq INTEGER PRIMARY KEY, epoch INTEGER, run INTEGER,"
	" time INTEGER, cum INTEGER, nth INTEGER, n INTEGER, dir TEXT, bytes BLOB);"
	"CREATE TABLE mbox (dir TEXT PRIMARY KEY, uniqueid TEXT, seq INTEGER, state "
	"BLOB)"
	" WITHOUT ROWID;"
	"CREATE TABLE tomb (dir TEXT, uniqueid TEXT, seq INTEGER, time INTEGER,"
	" PRIMARY KEY (dir, uniqueid)) WITHOUT ROWID;"
	"CREATE INDEX tomb_seq ON tomb (seq);";

static const char state_schema[] =
	"PRAGMA auto_vacuum = INCREMENTAL;"
	"BEGIN;"
	"CREATE TABLE kv (key TEXT PRIMARY KEY, v) WITHOUT ROWID;"
	"CREATE TABLE runs (epoch INTEGER, run INTEGER, first INTEGER, last INTEGER,"
	" PRIMARY KEY (epoch, run)) WITHOUT ROWID;"
	"CREATE TABLE peers (name TEXT PRIMARY KEY, state INTEGER, epoch INTEGER, run "
	"INTEGER,"
	" received INTEGER, flushed INTEGER, applied INTEGER) WITHOUT ROWID;"
	"CREATE TABLE inbox (id INTEGER PRIMARY KEY, epoch INTEGER, run INTEGER, seq "
	"INTEGER,"
	" state INTEGER, n INTEGER, dir TEXT, bytes BLOB);"
	"CREATE INDEX inbox_held ON inbox (dir) WHERE state = 3;"
	"CREATE TABLE quarantine (dir TEXT PRIMARY KEY, uid INTEGER, what TEXT, text "
	"TEXT,"
	" since INTEGER, epoch INTEGER, run INTEGER, seq INTEGER) WITHOUT ROWID;";

static const struct store_sql_file files[STORE_DBS] = {
	[STORE_DB_JOURNAL] = { "journal.db", APPLICATION_ID, SCHEMA_VERSION,
		journal_schema, PRAGMAS "PRAGMA synchronous = NORMAL;",
		"stop the slot, move journal.db, journal.db-wal and journal.db-shm "
		"away "
		"and start again: it is derived from the spool, and peers are "
		"compared" },
	[STORE_DB_STATE] = { "state.db", APPLICATION_ID, SCHEMA_VERSION, state_schema,
		PRAGMAS "PRAGMA synchronous = FULL;",
		"stop the slot; put state.db back from a copy, or move state.db* and "
		"journal.db* away and join this node anew as a standby" },
};

enum { Q_KV_PUT_INT, Q_KV_PUT_BLOB, Q_KV_GET, Q_KV_DEL, Q_KV_N };
static const char *const kv_sql[Q_KV_N] = {
	"INSERT INTO kv VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET v = excluded.v",
	"INSERT INTO kv VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET v = excluded.v",
	"SELECT v FROM kv WHERE key = ?",
	"DELETE FROM kv WHERE key = ?",
};
enum { Q_META_PUT, Q_META_GET, Q_LAST, Q_WIPE, Q_WIPE_LAST = Q_WIPE + 3, Q_META_N };
static const char *const meta_sql[Q_META_N] = {
	"INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET v = excluded.v",
	"SELECT v FROM meta WHERE key = ?",
	("SELECT max((SELECT coalesce(max(seq), 0) FROM journal),"
	 " (SELECT coalesce(max(v), 0) FROM meta WHERE key = 'trimmed'))"),
	[Q_WIPE] = "DELETE FROM journal",
	"DELETE FROM mbox",
	"DELETE FROM tomb",
	"DELETE FROM meta",
};

struct store {
	char folder[STORE_MAX_DIR];
	int lock_fd;
	struct store_sql *db[STORE_DBS];
	struct store_q kv[Q_KV_N], meta[Q_META_N];
	struct store_mbox_sql *mbox;
	bool was_clean, lost_journal;
	atomic_bool lost; /* a sync of journal.db failed */
};

/* Was it killed, and is not through yet? A thread that waits for the disk keeps the locks of its
 * process until the disk has answered. */
static bool
is_dying(pid_t pid)
{
	char path[32], line[128];
	bool dying = false;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	FILE *f = fopen(path, "re");
	if (f == NULL)
		return true; /* gone meanwhile */
	while (!dying && fgets(line, sizeof(line), f) != NULL)
		dying = strncmp(line, "State:\tZ", 8) == 0 ||
			strncmp(line, "State:\tX", 8) == 0 ||
			((strncmp(line, "SigPnd:", 7) == 0 ||
				 strncmp(line, "ShdPnd:", 7) == 0) &&
				(strtoull(line + 7, NULL, 16) >> (SIGKILL - 1) & 1));
	fclose(f);
	return dying;
}

static int
take_lock(struct store *s)
{
	char path[STORE_MAX_DIR + 16];
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	snprintf(path, sizeof(path), "%s/lock", s->folder);
	s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (s->lock_fd < 0) {
		int sys = errno;
		log_err("cannot open %s: look at the state folder's owner and mode, "
			"and "
			"whether its file system is there and writable errno=%d (%s)",
			path, sys, strerror(sys));
		return sys == ENOENT                    ? ERR_NOTFOUND
		       : sys == ENOSPC || sys == EDQUOT ? ERR_FULL
							: ERR_STORE;
	}
	/* a record lock: not inherited by a fork, gone with the process */
	for (uint64_t until = clock_ms() + DYING_MS;; usleep(10000)) {
		fl.l_type = F_WRLCK;
		if (fcntl(s->lock_fd, F_SETLK, &fl) == 0)
			return 0;
		if (fcntl(s->lock_fd, F_GETLK, &fl) != 0)
			fl.l_pid = 0;
		else if (fl.l_type == F_UNLCK && clock_ms() < until)
			continue;
		if (clock_ms() >= until || fl.l_pid <= 0 || !is_dying(fl.l_pid))
			break;
	}
	log_err("state folder %s is in use by another process pid=%d", s->folder,
		(int)fl.l_pid);
	return ERR_BUSY;
}

static bool
exists(const struct store *s, enum store_db db)
{
	char path[STORE_MAX_DIR + 16];

	snprintf(path, sizeof(path), "%s/%s", s->folder, files[db].name);
	return access(path, F_OK) == 0;
}

static int
sync_folder(const struct store *s)
{
	int fd = open(s->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = fd < 0 || disk_sync(fd, DISK_FOLDER) != 0 ? ERR_IO : 0;

	if (fd >= 0)
		close(fd);
	return rc;
}

static int
journal_last(struct store *s, uint64_t *last_out)
{
	int rc = store_sql_first(&s->meta[Q_LAST], "");

	if (rc > 0)
		*last_out = store_sql_u64(&s->meta[Q_LAST], 0);
	store_sql_reset(&s->meta[Q_LAST]);
	return rc < 0 ? rc : 0;
}

/* journal.db is not synced by its commits; its log is where the last ones are. */
int
store_sync(struct store *s)
{
	char path[STORE_MAX_DIR + 16];

	snprintf(path, sizeof(path), "%s/journal.db-wal", s->folder);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : ERR_STORE;
	/* One that failed is told of once; what it lost of the log ends the log for who reads it next. */
	if (!s->lost && disk_sync(fd, DISK_JOURNAL) != 0) {
		log_err("the disk did not keep what was written to %s; nothing of it "
			"counts as synced until the next start error=%s",
			path, strerror(errno));
		s->lost = true;
	}
	close(fd);
	return s->lost ? ERR_STORE : 0;
}

static int
wipe_journal(struct store *s)
{
	int rc = store_sql_begin(s->db[STORE_DB_JOURNAL]);

	if (rc != 0)
		return rc;
	for (int i = Q_WIPE; i <= Q_WIPE_LAST; i++)
		store_sql_run(&s->meta[i], ""); /* the commit knows of a failure */
	return store_sql_commit(s->db[STORE_DB_JOURNAL]);
}

/* Decides was_clean, and ties the two files together if they are not. */
static int
judge_start(struct store *s)
{
	uint64_t clean = 0, pair = 0, journal_pair = 0, last = 0, adopting = 0;
	int rc = store_get_u64(s, "clean", &clean);

	if (rc == 0 || rc == ERR_NOTFOUND)
		rc = store_get_u64(s, "pair", &pair);
	if (rc != 0 && rc != ERR_NOTFOUND)
		return rc;
	rc = store_sql_first(&s->meta[Q_META_GET], "t", "pair");
	if (rc > 0)
		journal_pair = store_sql_u64(&s->meta[Q_META_GET], 0);
	store_sql_reset(&s->meta[Q_META_GET]);
	if (rc < 0 || (rc = journal_last(s, &last)) < 0)
		return rc;
	if ((rc = store_get_u64(s, STORE_ADOPTING, &adopting)) != 0 &&
		rc != ERR_NOTFOUND)
		return rc;
	s->was_clean = clean == last + 1 && pair == journal_pair && pair != 0;
	s->lost_journal = adopting != 0;
	if (pair == journal_pair && pair != 0 && clean <= last + 1)
		return 0;
	if (!store_sql_fresh(s->db[STORE_DB_STATE])) {
		log_warn("journal.db in %s is new or not the one that belongs to "
			 "state.db: "
			 "all mailboxes are derived and compared again",
			s->folder);
		s->lost_journal = true;
		if ((rc = store_put_u64(s, STORE_ADOPTING, 1)) != 0 ||
			(rc = wipe_journal(s)) != 0)
			return rc;
	}
	while (pair == 0)
		if (getrandom(&pair, sizeof(pair), 0) != sizeof(pair))
			return ERR_IO;
	/* "clean" goes first: it must not vouch for a journal that is not known yet. The journal's
	 * own mark is on disk before state.db has it, or a power cut would part the two. */
	if ((rc = store_put_u64(s, "clean", 0)) == 0 &&
		(rc = store_sql_run(&s->meta[Q_META_PUT], "ti", "pair", pair)) == 0 &&
		(rc = store_sync(s)) == 0 && (rc = sync_folder(s)) == 0)
		rc = store_put_u64(s, "pair", pair);
	return rc;
}

int
store_open(const char *folder, struct store **out)
{
	struct store *s = calloc(1, sizeof(*s));
	int rc;

	*out = NULL;
	if (s == NULL)
		return ERR_NOMEM;
	s->lock_fd = -1;
	rc = ERR_LIMIT;
	if ((size_t)snprintf(s->folder, sizeof(s->folder), "%s", folder) >=
		sizeof(s->folder))
		goto out;
	if ((rc = take_lock(s)) != 0)
		goto out;
	if (!exists(s, STORE_DB_STATE) && exists(s, STORE_DB_JOURNAL)) {
		log_err("%s has a journal.db but no state.db, which holds this node's "
			"history: put it back, or move journal.db* away and join this "
			"node anew",
			s->folder);
		rc = ERR_STORE;
		goto out;
	}
	/* state.db first, so that a crash between the two is not the case above */
	for (int i = STORE_DBS; i-- > 0;)
		if ((rc = store_sql_open(folder, &files[i], &s->db[i])) != 0)
			goto out;
	if (store_sql_fresh(s->db[STORE_DB_STATE]) ||
		store_sql_fresh(s->db[STORE_DB_JOURNAL]))
		if ((rc = sync_folder(s)) != 0)
			goto out;
	if ((rc = store_sql_prepare(s->db[STORE_DB_STATE], kv_sql, Q_KV_N, s->kv)) !=
			0 ||
		(rc = store_sql_prepare(
			 s->db[STORE_DB_JOURNAL], meta_sql, Q_META_N, s->meta)) != 0 ||
		(rc = store_mbox_sql_open(s, &s->mbox)) != 0 ||
		(rc = judge_start(s)) != 0)
		goto out;
	/* small, and nothing else would notice a wrong epoch or cursor */
	if (!s->was_clean && (rc = store_sql_check(s->db[STORE_DB_STATE])) != 0)
		goto out;
	*out = s;
	s = NULL;
out:
	store_close(s);
	return rc;
}

void
store_close(struct store *s)
{
	if (s == NULL)
		return;
	store_mbox_sql_close(s->mbox);
	store_sql_drop(s->kv, Q_KV_N);
	store_sql_drop(s->meta, Q_META_N);
	for (int i = 0; i < STORE_DBS; i++)
		store_sql_close(s->db[i]);
	if (s->lock_fd >= 0)
		close(s->lock_fd);
	free(s);
}

void
store_adopt(struct store *s)
{
	for (int i = 0; i < STORE_DBS; i++)
		store_sql_adopt(s->db[i]);
}

const struct store_sql_file *
store_sql_file_of(enum store_db db)
{
	return &files[db];
}

struct store_sql *
store_sql_of(struct store *s, enum store_db db)
{
	return s->db[db];
}

struct store_mbox_sql *
store_mbox_sql_of(struct store *s)
{
	return s->mbox;
}

bool
store_was_clean(const struct store *s)
{
	return s->was_clean;
}

bool
store_lost_journal(const struct store *s)
{
	return s->lost_journal;
}

int
store_set_clean(struct store *s, bool clean)
{
	uint64_t last = 0;
	int rc;

	if (!clean)
		return store_put_u64(s, "clean", 0);
	if ((rc = journal_last(s, &last)) != 0 || (rc = store_sync(s)) != 0)
		return rc;
	return store_put_u64(s, "clean", last + 1);
}

/* ---- values ---- */

int
store_put_u64(struct store *s, const char *key, uint64_t v)
{
	return store_sql_run(&s->kv[Q_KV_PUT_INT], "ti", key, v);
}

int
store_put_blob(struct store *s, const char *key, const void *p, size_t n)
{
	if (n > STORE_MAX_BLOB)
		return ERR_LIMIT;
	return store_sql_run(&s->kv[Q_KV_PUT_BLOB], "tb", key, p, n);
}

int
store_get_u64(struct store *s, const char *key, uint64_t *v_out)
{
	struct store_q *q = &s->kv[Q_KV_GET];
	int rc = store_sql_first(q, "t", key);

	if (rc > 0)
		*v_out = store_sql_u64(q, 0);
	store_sql_reset(q);
	return rc > 0 ? 0 : rc == 0 ? ERR_NOTFOUND : rc;
}

int
store_get_blob(struct store *s, const char *key, struct buf *out)
{
	struct store_q *q = &s->kv[Q_KV_GET];
	int rc = store_sql_first(q, "t", key);
	size_t n;

	if (rc > 0) {
		const void *p = store_sql_blob(q, 0, &n);
		buf_clear(out);
		buf_put(out, p, n);
		rc = buf_ok(out);
	} else if (rc == 0) {
		rc = ERR_NOTFOUND;
	}
	store_sql_reset(q);
	return rc;
}

int
store_del(struct store *s, const char *key)
{
	return store_sql_run(&s->kv[Q_KV_DEL], "t", key);
}
