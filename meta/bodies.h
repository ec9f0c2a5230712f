/*
 * bodies.h - are all messages that an index names there, and what their records say?
 */
#ifndef META_BODIES_H
#define META_BODIES_H

struct mbox_fault;
struct spool;

/* Reads every message file of a mailbox. 0, or ERR_BODY with the first one that is missing or
 * wrong in fault, or what reading the index gives. Threads: any. */
int bodies_check(struct spool *sp, const char *dir, struct mbox_fault *fault);

#endif
