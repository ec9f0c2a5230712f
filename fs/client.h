/*
 * client.h - what the commands share: which slot an argument means, and a patient question to it.
 *
 * Threads: one. Reasons go into a buffer, for the command to print.
 */
#ifndef FS_CLIENT_H
#define FS_CLIENT_H

#include "fs/conf.h"
#include "fs/unmount.h"
#include "meta/base/buf.h"

#include <stdbool.h>

struct client {
	struct conf conf;
	bool mounted;
	struct mount_place place; /* if mounted */
};

/*
 * arg is a mount point (also below a dead mount) or a slot's configuration file. 0 or
 * ERR_NOTFOUND (neither), ERR_CONF and the like, with the reason in why.
 */
int client_find(const char *arg, struct client *out, struct buf *why);

/*
 * ctl_ask, but while nobody serves the slot it is asked again for up to patience_ms: a server
 * that died is back at once. timeout_ms (-1: for ever) bounds each answer.
 */
int client_ask(const struct client *c, const char *line, int timeout_ms,
	int patience_ms, struct buf *out);

/* Seconds, or a number with ms, s, m, h, d, as in the configuration: ms, or -1. */
int client_time(const char *text);

#endif
