/*
 * repl.h - replication as a mount wires it: the spool, capture on the active side, and on a
 * standby the kernel's caches.
 *
 * Lives in the server process, again in each that takes over.
 */
#ifndef FS_REPL_H
#define FS_REPL_H

#include "fs/conf.h"
#include "fs/service.h"

#include <stdbool.h>

/* The role that the state folder says, or that of the configuration at the very first start; for
 * the program, before it mounts. 0 or a code, logged. */
int repl_role(const struct conf *conf, bool *standby_out);
/* Before the first request. takeover: an earlier server died. 0 or a code, logged. */
int repl_start(const struct conf *conf, bool takeover);
/* The role that the state says. */
bool repl_is_standby(void);
/* True once each peer has said hello since the start. */
bool repl_greeted(void);
/* No peer confirms, and nothing may be let in. */
bool repl_refusing(void);
/* An administrator said that no peer is to be waited for. */
bool repl_forced(void);
/* After the last request. clean: it was drained. */
void repl_stop(bool clean);

/* Fills in the members of ops that are about replication. */
void repl_service(struct service_ops *ops);

#endif
