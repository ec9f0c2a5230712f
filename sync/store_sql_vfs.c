/*
 * store_sql_vfs.c - how it works: SQLite's own file system, whose files get a table of calls that
 * differs in one, for the sync. SQLite has a table for files that it locks and another for those that
 * it does not; each of ours is a copy of one of them, for one of our two files, whose log goes with
 * it. All of them sync by the same function.
 */
#include "sync/store_sql_vfs.h"
#include "meta/base/disk.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <string.h>

enum { KINDS_MAX = 4 }; /* of SQLite's tables */

struct calls {
	const sqlite3_io_methods *real;
	sqlite3_io_methods journal, state;
};

static sqlite3_vfs *real, counting;
static struct calls tables[KINDS_MAX];
static unsigned n_tables;
static int (*real_sync)(sqlite3_file *, int); /* written before any file is open */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool ready;

static int
sync_journal(sqlite3_file *f, int flags)
{
	disk_count(DISK_JOURNAL);
	return real_sync(f, flags);
}

static int
sync_state(sqlite3_file *f, int flags)
{
	disk_count(DISK_STATE);
	return real_sync(f, flags);
}

/* Lock held. NULL: that one is not counted. */
static struct calls *
table_of(const sqlite3_io_methods *theirs)
{
	for (unsigned i = 0; i < n_tables; i++)
		if (tables[i].real == theirs)
			return &tables[i];
	if (n_tables == KINDS_MAX || (n_tables > 0 && theirs->xSync != real_sync))
		return NULL;
	if (n_tables == 0)
		real_sync = theirs->xSync;
	struct calls *c = &tables[n_tables++];
	*c = (struct calls){ theirs, *theirs, *theirs };
	c->journal.xSync = sync_journal;
	c->state.xSync = sync_state;
	return c;
}

static const sqlite3_io_methods *
counted(const sqlite3_io_methods *theirs, bool journal)
{
	pthread_mutex_lock(&lock);
	const struct calls *c = table_of(theirs);
	pthread_mutex_unlock(&lock);
	return c == NULL ? theirs : journal ? &c->journal : &c->state;
}

static int
open_counted(sqlite3_vfs *vfs, sqlite3_filename name, sqlite3_file *f, int flags,
	int *flags_out)
{
	const char *slash = name != NULL ? strrchr(name, '/') : NULL;
	int rc = real->xOpen(real, name, f, flags, flags_out);

	(void)vfs;
	if (rc == SQLITE_OK && slash != NULL && f->pMethods != NULL)
		f->pMethods =
			counted(f->pMethods, strncmp(slash, "/journal.db", 11) == 0);
	return rc;
}

static void
set_up(void)
{
	if ((real = sqlite3_vfs_find(NULL)) == NULL)
		return;
	counting = *real;
	counting.zName = "twinspool";
	counting.pNext = NULL;
	counting.xOpen = open_counted;
	ready = sqlite3_vfs_register(&counting, 0) == SQLITE_OK;
}

const char *
store_sql_vfs(void)
{
	pthread_once(&once, set_up);
	return ready ? counting.zName : NULL;
}
