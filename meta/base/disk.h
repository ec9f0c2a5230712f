/*
 * disk.h - the calls that make something durable, counted by what that is: nothing else that a
 * program of this kind does costs so much.
 *
 * Threads  any, without a lock.
 */
#ifndef META_BASE_DISK_H
#define META_BASE_DISK_H

#include <stdatomic.h>
#include <stdint.h>

/* The name is that of the metrics. */
#define DISK_TABLE(X) \
	X(DISK_INDEX, "index") \
	X(DISK_HEADER, "header") \
	X(DISK_CACHE, "cache") \
	X(DISK_ANNOT, "annotations") \
	X(DISK_BODY, "body") /* of a message, in its mailbox or on its way there */ \
	X(DISK_FOLDER, "folder") \
	X(DISK_FILE, "file") /* any other of the spool */ \
	X(DISK_SPOOL, "spool") /* the spool's whole filesystem */ \
	X(DISK_JOURNAL, "journal") /* journal.db */ \
	X(DISK_STATE, "state") /* state.db: the inbox's table, epochs, quarantine */ \
	X(DISK_INBOX, "inbox") /* the log of arrivals */ \
	X(DISK_NOTES, "notes")

#define DISK_ENUM(id, name) id,
enum disk_what { DISK_TABLE(DISK_ENUM) DISK_WHATS };
#undef DISK_ENUM
extern const char *const disk_names[DISK_WHATS];

/* fsync, fdatasync and syncfs, with their results and errno. */
int disk_sync(int fd, enum disk_what what);
int disk_datasync(int fd, enum disk_what what);
int disk_sync_all(int fd);

/* One that somebody else makes. */
void disk_count(enum disk_what what);
uint64_t disk_counted(enum disk_what what);
/* Counts there from now on (DISK_WHATS of them), continuing what is there. NULL: in this process. */
void disk_count_in(_Atomic uint64_t *counts);

#endif
