/*
 * How it works: a mount names its configuration file as its source, so the table of mounts leads
 * from a mount point to the slot. The file system itself is not asked: a dead or busy mount must
 * not hang the command that is there to mend it.
 */
#include "fs/client.h"
#include "fs/ctl.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int
client_find(const char *arg, struct client *out, struct buf *why)
{
	char path[MOUNT_PATH_MAX];
	int rc;

	out->mounted = false;
	if (!unmount_real_path(arg, path)) {
		buf_printf(why, "%s: %s\n", arg, strerror(errno));
		return ERR_NOTFOUND;
	}
	if (unmount_find(path, &out->place) == 0) {
		out->mounted = true;
		return conf_load(out->place.source, &out->conf, why);
	}
	struct stat st;
	if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
		buf_printf(why, "%s: no twinspool is mounted here\n", arg);
		return ERR_NOTFOUND;
	}
	rc = conf_load(path, &out->conf, why);
	if (rc == 0)
		out->mounted = unmount_find(out->conf.mountpoint, &out->place) == 0 &&
			       strcmp(out->place.source, out->conf.path) == 0;
	return rc;
}

int
client_ask(const struct client *c, const char *line, int timeout_ms, int patience_ms,
	struct buf *out)
{
	uint64_t end = clock_ms() + (uint64_t)patience_ms;

	for (;;) {
		int rc = ctl_ask(c->conf.state, line, timeout_ms, out);
		if (rc != ERR_CLOSED && rc != ERR_NOTFOUND && rc != ERR_LINK)
			return rc;
		if (clock_ms() >= end)
			return rc;
		usleep(20000);
	}
}

int
client_time(const char *text)
{
	uint64_t ms;

	if (!conf_parse_time(text, &ms) || ms > INT_MAX)
		return -1;
	return (int)ms;
}
