/*
 * service.h - a serving slot as its administrator meets it: the control socket's commands, and
 * the clean stop.
 *
 *   status [json|metrics]   facts
 *   wait [timeout=MS]       until every peer has applied what was committed before
 *   drain [timeout=MS]      gate shut, everything sent, confirmed and compared: the proof
 *   resume                  gate open again, the proof is void
 *   drained                 ok if the proof of a drain still stands
 *   pids                    "SUPERVISOR SERVER\n"
 *   force                   what waits for a peer is answered without it
 *
 * After a drain the slot waits to be unmounted. If that does not come within SERVICE_DRAINED_MS,
 * or the one who asked for it goes away while it runs, the gate opens again by itself: nobody's
 * interrupted umount may stop the mail.
 *
 * Lives in the server process, again in each that takes over. Threads: service_signal may take
 * its time; the rest is called by the wiring, once each.
 */
#ifndef FS_SERVICE_H
#define FS_SERVICE_H

#include "fs/conf.h"
#include "fs/status.h"
#include "meta/base/buf.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum { SERVICE_DRAINED_MS = 60000 };

/* What the layers below do for it; a member that is NULL does nothing and succeeds. Any thread. */
struct service_ops {
	void *arg;
	void (*facts)(void *arg, struct sync_facts *out);
	const char *(*gate)(void *arg); /* its state in a word */
	const char *(*transport)(void *arg); /* likewise */
	/* 0, ERR_TIMEOUT, ERR_CLOSED; lack says what is missing. on returns false to give up. */
	int (*wait)(void *arg, uint64_t ms, bool (*on)(void *), void *on_arg,
		struct buf *lack);
	int (*prove)(void *arg, uint64_t ms, bool (*on)(void *), void *on_arg,
		struct buf *lack);
	/* Lets running transactions end and no other begin; why says what did not end. */
	int (*shut)(void *arg, uint64_t ms, bool (*on)(void *), void *on_arg,
		struct buf *why);
	void (*open)(void *arg);
	/* Answers who waits for a peer, and nobody waits until they have caught up; how many. */
	unsigned (*force)(void *arg);
	void (*metrics)(void *arg, struct buf *out); /* more of them, behind our own */
};

struct service_conf {
	const struct conf *conf;
	const struct service_ops *ops;
	pid_t supervisor;
	uint64_t started; /* wall clock, ns */
	uint64_t restarts;
};

/* Serves the control socket. conf and ops must outlive it. 0 or as ctl_start. */
int service_start(const struct service_conf *conf);

/* SIGTERM and its like: drain, then unmount; what stands in the way is logged. */
void service_signal(void);

/* What `status` would answer: for .twinspool/. */
void service_facts(struct status_facts *out, struct sync_facts *room);

/* The mount has ended; ends the socket. True if it was drained: the state is clean. */
bool service_stop(void);

#endif
