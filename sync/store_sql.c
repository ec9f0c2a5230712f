/*
 * How it works. One SQLite connection a file, used by one thread, without SQLite's own mutexes.
 * A schema version lies in user_version and a mark of ours in application_id; a file that is
 * empty gets the schema in one transaction, one with another version is refused before anything
 * is written to it.
 *
 * The log is moved into the file when it has grown large, by the commit that notices, so that the
 * sync this takes seldom holds up a batch.
 */
#include "sync/store_sql.h"
#include "meta/base/buf.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "sync/store_sql_vfs.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	BUSY_MS = 2000, /* somebody looks into the file with another program */
	WAL_PAGES_MAX = 4000, /* a commit moves the log into the file beyond this */
	SHRINK_MIN_PAGES = 4096,
	SHRINK_PAGES = 1024,
	LOG_AGAIN_MS = 10000
};

/* What every transaction begins and ends with. */
enum { BEGIN, COMMIT, BOUNDS };
static const char *const bounds_sql[BOUNDS] = { "BEGIN IMMEDIATE", "COMMIT" };

struct store_sql {
	const struct store_sql_file *file;
	struct store_sql_file looked; /* what file points to, for one who only looks */
	char folder[STORE_MAX_DIR];
	pthread_t owner;
	sqlite3 *h;
	struct store_q bounds[BOUNDS];
	bool fresh;
	bool in_tx;
	int failed; /* first error of the transaction */
	int logged_rc; /* not said again for a while */
	uint64_t logged_ms;
};

static void
check_thread(const struct store_sql *c)
{
#ifndef NDEBUG
	if (!pthread_equal(c->owner, pthread_self())) {
		log_err("store used by a thread that does not own it file=%s/%s",
			c->folder, c->file->name);
		abort();
	}
#else
	(void)c;
#endif
}

/* ---- errors ---- */

static int
code_of(sqlite3 *h, int rc)
{
	int sys = h != NULL ? sqlite3_system_errno(h) : 0;

	switch (rc & 0xff) {
	case SQLITE_OK:
	case SQLITE_ROW:
	case SQLITE_DONE:
		return 0;
	case SQLITE_FULL:
		return ERR_FULL;
	case SQLITE_NOMEM:
		return ERR_NOMEM;
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return ERR_BUSY;
	case SQLITE_TOOBIG:
		return ERR_LIMIT;
	case SQLITE_IOERR:
		/* a file size limit and a quota say so by another errno than a full disk */
		if (sys == ENOSPC || sys == EDQUOT || sys == EFBIG)
			return ERR_FULL;
		return rc == SQLITE_IOERR_NOMEM ? ERR_NOMEM : ERR_STORE;
	default:
		return ERR_STORE;
	}
}

/* The code for a failed call on a file; says what to do, unless it has just been said. */
static int
fail(struct store_sql *c, int rc)
{
	const char *name = c->file->name, *text = sqlite3_errstr(rc);
	int code = code_of(c->h, rc), sys = c->h ? sqlite3_system_errno(c->h) : 0;
	uint64_t now = clock_ms();

	if (c->logged_rc == rc && now - c->logged_ms < LOG_AGAIN_MS)
		return code;
	c->logged_rc = rc;
	c->logged_ms = now;
	if (code == ERR_FULL) {
		log_err("no space left for %s/%s: free some, it goes on by itself",
			c->folder, name);
		return code;
	}
	switch (rc & 0xff) {
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		log_err("%s/%s is damaged: %s error=\"%s\"", c->folder, name,
			c->file->damaged, text);
		break;
	case SQLITE_READONLY:
	case SQLITE_PERM:
	case SQLITE_CANTOPEN:
	case SQLITE_AUTH:
		log_err("cannot write %s/%s: look at its owner and mode, and whether "
			"the "
			"file system is mounted read-only error=\"%s\" errno=%d",
			c->folder, name, text, sys);
		break;
	case SQLITE_BUSY:
		log_err("%s/%s is locked by another program: end it", c->folder, name);
		break;
	default:
		log_err("%s/%s failed: look at the disk and the kernel log "
			"error=\"%s\" "
			"errno=%d",
			c->folder, name, text, sys);
	}
	return code;
}

/* ---- statements ---- */

int
store_sql_prepare(
	struct store_sql *c, const char *const *sql, size_t n, struct store_q *qs)
{
	for (size_t i = 0; i < n; i++)
		qs[i] = (struct store_q){ c, NULL };
	for (size_t i = 0; i < n; i++) {
		int rc = sqlite3_prepare_v3(
			c->h, sql[i], -1, SQLITE_PREPARE_PERSISTENT, &qs[i].stmt, NULL);
		if (rc != SQLITE_OK) {
			log_debug("sql=\"%s\" error=\"%s\"", sql[i],
				sqlite3_errmsg(c->h));
			store_sql_drop(qs, n);
			return fail(c, rc);
		}
	}
	return 0;
}

void
store_sql_drop(struct store_q *qs, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		sqlite3_finalize(qs[i].stmt);
		qs[i].stmt = NULL;
	}
}

static int
bind(struct store_q *q, const char *types, va_list ap)
{
	int rc = SQLITE_OK;

	check_thread(q->c);
	sqlite3_reset(q->stmt);
	for (int i = 1; *types != '\0' && rc == SQLITE_OK; types++, i++) {
		const void *p;
		size_t n;
		switch (*types) {
		case 'i':
			rc = sqlite3_bind_int64(
				q->stmt, i, (sqlite3_int64)va_arg(ap, uint64_t));
			break;
		case 't':
			p = va_arg(ap, const char *);
			rc = sqlite3_bind_text(q->stmt, i, p, -1, SQLITE_STATIC);
			break;
		case 'b':
			p = va_arg(ap, const void *);
			n = va_arg(ap, size_t);
			/* no pointer would be no blob, but NULL */
			rc = sqlite3_bind_blob64(
				q->stmt, i, p ? p : "", n, SQLITE_STATIC);
			break;
		default:
			abort();
		}
	}
	return rc;
}

/* 1, 0 or the error, which the open transaction remembers. */
static int
step(struct store_q *q)
{
	struct store_sql *c = q->c;

	if (c->in_tx && c->failed != 0) {
		sqlite3_reset(q->stmt);
		return c->failed;
	}
	int rc = sqlite3_step(q->stmt);
	if (rc == SQLITE_ROW)
		return 1;
	if (rc == SQLITE_DONE) {
		sqlite3_reset(q->stmt);
		return 0;
	}
	int code = fail(q->c, sqlite3_extended_errcode(c->h));
	sqlite3_reset(q->stmt);
	if (c->in_tx)
		c->failed = code;
	return code;
}

/* A statement whose values could not be bound fails like one that could not run. */
static int
unbound(struct store_q *q, int rc)
{
	int code = fail(q->c, rc);

	if (q->c->in_tx && q->c->failed == 0)
		q->c->failed = code;
	return code;
}

int
store_sql_first(struct store_q *q, const char *types, ...)
{
	va_list ap;

	va_start(ap, types);
	int rc = bind(q, types, ap);
	va_end(ap);
	return rc == SQLITE_OK ? step(q) : unbound(q, rc);
}

int
store_sql_run(struct store_q *q, const char *types, ...)
{
	va_list ap;

	va_start(ap, types);
	int rc = bind(q, types, ap);
	va_end(ap);
	if (rc != SQLITE_OK)
		return unbound(q, rc);
	while ((rc = step(q)) > 0)
		;
	return rc;
}

int
store_sql_next(struct store_q *q)
{
	check_thread(q->c);
	return step(q);
}

void
store_sql_reset(struct store_q *q)
{
	sqlite3_reset(q->stmt);
}

uint64_t
store_sql_u64(struct store_q *q, int col)
{
	return (uint64_t)sqlite3_column_int64(q->stmt, col);
}

const char *
store_sql_text(struct store_q *q, int col)
{
	const unsigned char *p = sqlite3_column_text(q->stmt, col);

	return p != NULL ? (const char *)p : "";
}

const void *
store_sql_blob(struct store_q *q, int col, size_t *n_out)
{
	const void *p = sqlite3_column_blob(q->stmt, col);

	*n_out = p != NULL ? (size_t)sqlite3_column_bytes(q->stmt, col) : 0;
	return p != NULL ? p : "";
}

size_t
store_sql_changed(struct store_q *q)
{
	return (size_t)sqlite3_changes(q->c->h);
}

/* ---- transactions ---- */

static int
exec(struct store_sql *c, const char *sql)
{
	if (sqlite3_exec(c->h, sql, NULL, NULL, NULL) == SQLITE_OK)
		return 0;
	return fail(c, sqlite3_extended_errcode(c->h));
}

int
store_sql_relax(struct store_sql *c, bool relax)
{
	check_thread(c);
	return exec(
		c, relax ? "PRAGMA synchronous = NORMAL" : "PRAGMA synchronous = FULL");
}

int
store_sql_begin(struct store_sql *c)
{
	check_thread(c);
	if (c->in_tx)
		return ERR_USAGE;
	int rc = step(&c->bounds[BEGIN]);
	if (rc == 0) {
		c->in_tx = true;
		c->failed = 0;
	}
	return rc;
}

void
store_sql_rollback(struct store_sql *c)
{
	check_thread(c);
	if (!c->in_tx)
		return;
	/* a full disk may have undone it already */
	if (!sqlite3_get_autocommit(c->h))
		sqlite3_exec(c->h, "ROLLBACK", NULL, NULL, NULL);
	c->in_tx = false;
	c->failed = 0;
}

int
store_sql_commit(struct store_sql *c)
{
	int rc = c->failed;

	check_thread(c);
	if (!c->in_tx)
		return ERR_USAGE;
	if (rc == 0)
		rc = step(&c->bounds[COMMIT]);
	if (rc != 0) {
		store_sql_rollback(c);
		return rc;
	}
	c->in_tx = false;
	return 0;
}

bool
store_sql_in_tx(const struct store_sql *c)
{
	return c->in_tx;
}

/* ---- the file ---- */

/* The first column of a query's only row. */
static int
query_int(struct store_sql *c, const char *sql, int *out)
{
	sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(c->h, sql, -1, &st, NULL);

	if (rc == SQLITE_OK)
		rc = sqlite3_step(st);
	if (rc == SQLITE_ROW)
		*out = sqlite3_column_int(st, 0);
	sqlite3_finalize(st);
	return rc == SQLITE_ROW ? 0 : fail(c, rc == SQLITE_DONE ? SQLITE_CORRUPT : rc);
}

/* Version and owner of a file, or its schema if it is new and may be made. */
static int
check_schema(struct store_sql *c, bool make)
{
	int application = 0, version = 0, tables = 0, rc;
	char sql[128];

	if ((rc = query_int(c, "PRAGMA application_id", &application)) != 0 ||
		(rc = query_int(c, "PRAGMA user_version", &version)) != 0 ||
		(rc = query_int(c, "SELECT count(*) FROM sqlite_schema", &tables)) != 0)
		return rc;
	if (make && application == 0 && version == 0 && tables == 0) {
		c->fresh = true;
		rc = exec(c, c->file->schema);
		snprintf(sql, sizeof(sql),
			"PRAGMA application_id = %d; PRAGMA user_version = %d; COMMIT;",
			c->file->application, c->file->version);
		return rc != 0 ? rc : exec(c, sql);
	}
	if (application != c->file->application) {
		log_err("%s/%s is not a file of this program: is the state folder the "
			"right one?",
			c->folder, c->file->name);
		return ERR_FOREIGN;
	}
	if (version != c->file->version) {
		log_err("%s/%s has version %d, this program knows %d: use the program "
			"that "
			"wrote it",
			c->folder, c->file->name, version, c->file->version);
		return ERR_VERSION;
	}
	return 0;
}

static int
on_wal(void *arg, sqlite3 *h, const char *name, int pages)
{
	(void)arg;
	if (pages >= WAL_PAGES_MAX)
		sqlite3_wal_checkpoint_v2(
			h, name, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
	return SQLITE_OK;
}

static int
open_file(struct store_sql *c)
{
	char path[STORE_MAX_DIR + 64];
	int rc;

	/* made here for its mode; SQLite's other files take theirs from it */
	snprintf(path, sizeof(path), "%s/%s", c->folder, c->file->name);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd >= 0)
		close(fd);
	rc = sqlite3_open_v2(path, &c->h,
		SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_NOFOLLOW |
			SQLITE_OPEN_EXRESCODE,
		store_sql_vfs());
	if (rc != SQLITE_OK)
		return fail(c, rc);
	sqlite3_busy_timeout(c->h, BUSY_MS);
	if ((rc = check_schema(c, true)) != 0 || (rc = exec(c, c->file->pragmas)) != 0)
		return rc;
	sqlite3_wal_hook(c->h, on_wal, NULL);
	return store_sql_prepare(c, bounds_sql, BOUNDS, c->bounds);
}

int
store_sql_open(
	const char *folder, const struct store_sql_file *file, struct store_sql **out)
{
	struct store_sql *c = calloc(1, sizeof(*c));
	int rc;

	*out = NULL;
	if (c == NULL)
		return ERR_NOMEM;
	c->file = file;
	c->owner = pthread_self();
	snprintf(c->folder, sizeof(c->folder), "%s", folder);
	if ((rc = open_file(c)) == 0) {
		*out = c;
		c = NULL;
	}
	store_sql_close(c);
	return rc;
}

/* A name for sqlite3_open_v2 of a file that nobody changes; every odd byte as %XX. */
static int
open_unchanged(struct store_sql *c, const char *path, int flags)
{
	struct buf uri = BUF_INIT;
	int rc;

	buf_printf(&uri, "file:");
	for (const unsigned char *p = (const unsigned char *)path; *p != '\0'; p++)
		buf_printf(&uri, isalnum(*p) ? "%c" : "%%%02X", *p);
	buf_printf(&uri, "?immutable=1");
	rc = buf_ok(&uri) != 0 ? SQLITE_NOMEM
			       : sqlite3_open_v2(buf_str(&uri), &c->h,
					 flags | SQLITE_OPEN_URI, NULL);
	buf_fini(&uri);
	return rc;
}

static int
look(struct store_sql *c, const char *path, const char *table, bool unchanged)
{
	int flags = SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
	int rc, there = 0;
	char sql[128];

	rc = unchanged ? open_unchanged(c, path, flags)
		       : sqlite3_open_v2(path, &c->h, flags, NULL);
	if (rc != SQLITE_OK)
		return fail(c, rc);
	sqlite3_busy_timeout(c->h, BUSY_MS);
	/* the last one to close a file would empty its log */
	sqlite3_db_config(c->h, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	if ((rc = check_schema(c, false)) != 0)
		return rc;
	snprintf(sql, sizeof(sql),
		"SELECT count(*) FROM sqlite_schema WHERE name = '%s'", table);
	if ((rc = query_int(c, sql, &there)) == 0 && there == 0) {
		log_err("%s has no table %s", path, table);
		rc = ERR_FOREIGN;
	}
	return rc;
}

int
store_sql_look(const char *path, const struct store_sql_file *file, const char *table,
	bool unchanged, struct store_sql **out)
{
	struct store_sql *c = calloc(1, sizeof(*c));
	const char *slash = strrchr(path, '/');
	int rc;

	*out = NULL;
	if (c == NULL)
		return ERR_NOMEM;
	c->looked = *file;
	c->looked.name = slash != NULL ? slash + 1 : path;
	c->file = &c->looked;
	c->owner = pthread_self();
	snprintf(c->folder, sizeof(c->folder), "%.*s",
		slash != NULL ? (int)(slash - path) : 1, slash != NULL ? path : ".");
	if ((rc = look(c, path, table, unchanged)) == 0) {
		*out = c;
		c = NULL;
	}
	store_sql_close(c);
	return rc;
}

void
store_sql_close(struct store_sql *c)
{
	if (c == NULL)
		return;
	check_thread(c);
	store_sql_drop(c->bounds, BOUNDS);
	sqlite3_close(c->h);
	free(c);
}

void
store_sql_adopt(struct store_sql *c)
{
	c->owner = pthread_self();
}

bool
store_sql_fresh(const struct store_sql *c)
{
	return c->fresh;
}

int
store_sql_check(struct store_sql *c)
{
	int good = 0, rc;

	rc = query_int(c,
		"SELECT count(*) FROM pragma_quick_check WHERE quick_check = 'ok'",
		&good);
	return rc != 0 ? rc : good == 1 ? 0 : fail(c, SQLITE_CORRUPT);
}

void
store_sql_shrink(struct store_sql *c)
{
	int unused = 0;
	char sql[64];

	if (c->in_tx || query_int(c, "PRAGMA freelist_count", &unused) != 0 ||
		unused < SHRINK_MIN_PAGES)
		return;
	snprintf(sql, sizeof(sql), "PRAGMA incremental_vacuum(%d)", SHRINK_PAGES);
	exec(c, sql);
}
