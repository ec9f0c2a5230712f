/*
 * shown_mbox.h - .twinspool/mailboxes/ID/: state (what replication believes), name, index (every
 * record). In the server, beside shown.h; the same rules for threads.
 */
#ifndef FS_SHOWN_MBOX_H
#define FS_SHOWN_MBOX_H

struct sync;

/* spool is the backing tree's path; both must outlive the requests. 0 or ERR_LIMIT. */
int shown_mbox_start(struct sync *sync, const char *spool);

#endif
