/*
 * store_sql_vfs.h - SQLite's files as they are, with their syncs counted.
 *
 * Threads: any. Errors: none.
 */
#ifndef SYNC_STORE_SQL_VFS_H
#define SYNC_STORE_SQL_VFS_H

/* For sqlite3_open_v2; NULL, which is SQLite's own, if it cannot be set up. */
const char *store_sql_vfs(void);

#endif
