/*
 * store_sql.h - connections, statements and transactions on the store's two files, for the
 * modules that own tables in them or read those (store, store_mbox, journal*, inbox). Nobody else
 * includes this, and only store_sql*.c know SQLite.
 *
 * A failure inside a transaction is remembered: every later call of that transaction fails the
 * same way, and the commit undoes it all and returns the first error.
 *
 * Threads and errors as in store.h; a failure is logged here, with what to do.
 */
#ifndef SYNC_STORE_SQL_H
#define SYNC_STORE_SQL_H

#include "sync/store.h"

enum store_db { STORE_DB_JOURNAL, STORE_DB_STATE, STORE_DBS };

struct store_sql; /* one connection */

/* What a file is to be. Constant for the life of the connection. */
struct store_sql_file {
	const char *name; /* in the state folder */
	int application, version;
	const char *schema; /* for a new file; leaves a transaction open */
	const char *pragmas;
	const char *damaged; /* what to do when it is */
};

/* Opens folder/name, makes it if it is not there. */
int store_sql_open(
	const char *folder, const struct store_sql_file *file, struct store_sql **out);
/* Opens one of a kind of file, wherever it lies, to look: it must be there, of this version and
 * with this table (ERR_FOREIGN); nothing is ever written. unchanged: nobody else does either
 * meanwhile. The name in path must outlive it. */
int store_sql_look(const char *path, const struct store_sql_file *file,
	const char *table, bool unchanged, struct store_sql **out);
void store_sql_close(struct store_sql *c);
void store_sql_adopt(struct store_sql *c); /* by the calling thread */
bool store_sql_fresh(const struct store_sql *c); /* made by this open */
/* Reads the whole file: 0, or ERR_STORE if it is damaged. */
int store_sql_check(struct store_sql *c);
/* Gives pages of deleted rows back to the file system, some at a time. */
void store_sql_shrink(struct store_sql *c);

/* The store's connections. */
struct store_sql *store_sql_of(struct store *s, enum store_db db);
const struct store_sql_file *store_sql_file_of(enum store_db db);

/* A prepared statement; embedded in arrays that an enum of the owner indexes. */
struct store_q {
	struct store_sql *c;
	struct sqlite3_stmt *stmt;
};

/* Prepares n statements into qs; on failure none is left. drop: harmless on zeroed ones. */
int store_sql_prepare(
	struct store_sql *c, const char *const *sql, size_t n, struct store_q *qs);
void store_sql_drop(struct store_q *qs, size_t n);

/*
 * Binds by types, one letter a parameter: i (uint64_t), t (const char *), b (const void *,
 * size_t). run: to the end, 0 or an error. first and next: 1 with a row, 0 behind the last, or
 * an error; the row's pointers live until the next call on q. reset: done with the rows.
 */
int store_sql_run(struct store_q *q, const char *types, ...);
int store_sql_first(struct store_q *q, const char *types, ...);
int store_sql_next(struct store_q *q);
void store_sql_reset(struct store_q *q);
uint64_t store_sql_u64(struct store_q *q, int col);
const char *store_sql_text(struct store_q *q, int col); /* never NULL */
const void *store_sql_blob(struct store_q *q, int col, size_t *n_out);
/* Rows that the last run changed. */
size_t store_sql_changed(struct store_q *q);

/* Do not nest. commit fails as said above; rollback never does. */
int store_sql_begin(struct store_sql *c);
int store_sql_commit(struct store_sql *c);
void store_sql_rollback(struct store_sql *c);
bool store_sql_in_tx(const struct store_sql *c);
/* Commits from now on need not be on disk when they return (a crash of the process loses none of
 * them, a power cut the last ones), or again must be. Outside a transaction. */
int store_sql_relax(struct store_sql *c, bool relax);

/* store_mbox.c's statements live with the store. */
struct store_mbox_sql;
int store_mbox_sql_open(struct store *s, struct store_mbox_sql **out);
void store_mbox_sql_close(struct store_mbox_sql *m);
struct store_mbox_sql *store_mbox_sql_of(struct store *s);

#endif
