/*
 * How it works: the server shuts its gate, sends what is left and compares sums (`drain`); only
 * with its proof is the mount taken away. When that fails, or somebody still uses the mount, the
 * gate is opened again (`resume`) and nothing has happened. The same code is umount(8)'s helper,
 * which gets `MOUNTPOINT [-f] [-l] [-n] [-r] [-v] [-N NS] [-t TYPE]`; there -f is --force.
 */
#include "fs/cmd.h"
#include "fs/client.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/log.h"

#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
	PATIENCE_MS = 3000, /* for a server that is being started again */
	ANSWER_MS = 5000, /* for a plain answer */
	DRAIN_EXTRA_MS =
		60000, /* beyond stop_wait: the running transactions, the comparison */
	END_MS = 30000 /* for the process to end after its mount has gone */
};

struct opts {
	bool force, lazy;
	int timeout; /* ms, -1: stop_wait of the configuration */
	const char *arg;
};

static int
usage(void)
{
	fputs("usage: twinspool umount [--force] [--timeout TIME] "
	      "MOUNTPOINT|SLOT.conf\n",
		stderr);
	return CMD_USAGE;
}

static void
say(const char *path, const char *text)
{
	size_t n = strlen(text);

	fprintf(stderr, "twinspool: %s: %s%s", path, text,
		n > 0 && text[n - 1] == '\n' ? "" : "\n");
}

/* A descriptor of the supervisor, to see it end; -1 if it cannot be had. served_out: whether
 * anybody answers at all. */
static int
watch_supervisor(const struct client *c, bool *served_out)
{
	struct buf b = BUF_INIT;
	int fd = -1;

	*served_out = client_ask(c, "pids", ANSWER_MS, PATIENCE_MS, &b) == 0;
	if (*served_out) {
		long pid = strtol(buf_str(&b), NULL, 10);
		if (pid > 1)
			fd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
	}
	buf_fini(&b);
	return fd;
}

/* The mount has gone; the state is whole once the process has ended. */
static int
await_end(const char *path, int pidfd)
{
	struct pollfd p = { .fd = pidfd, .events = POLLIN };
	uint64_t end = clock_ms() + END_MS;
	int n = 0;

	while (pidfd >= 0 && clock_ms() < end) {
		n = poll(&p, 1, (int)(end - clock_ms()));
		if (n > 0 || (n < 0 && errno != EINTR))
			break;
	}
	if (pidfd < 0 || n > 0)
		return CMD_OK;
	say(path, "unmounted, but its process has not ended yet");
	return CMD_FAIL;
}

static void
resume(const struct client *c, const char *path)
{
	struct buf b = BUF_INIT;

	if (client_ask(c, "resume", ANSWER_MS, PATIENCE_MS, &b) == 0)
		say(path, "still mounted and open for changes");
	else
		say(path, buf_str(&b));
	buf_fini(&b);
}

/* Who holds it: a file open for writing keeps it from draining, any other from going. */
static void
tell_holders(const struct client *c, const char *path)
{
	struct buf b = BUF_INIT;

	say(path, "busy; it is held by");
	if (unmount_holders(&c->place, &b) == 0)
		buf_printf(&b,
			"nobody that /proc shows (another mount below it, or the "
			"kernel itself: nfsd, loop, swap)\n");
	fputs(buf_str(&b), stderr);
	buf_fini(&b);
}

/* The server may have died since, and its successor let changes in. */
static bool
still_drained(const struct client *c)
{
	struct buf b = BUF_INIT;
	int rc = client_ask(c, "drained", ANSWER_MS, PATIENCE_MS, &b);

	buf_fini(&b);
	return rc == 0;
}

static int
take_away(const struct client *c, const struct opts *o, bool served, int pidfd)
{
	const char *path = c->place.path;
	int rc = unmount_now(path, o->lazy);

	if (rc == 0)
		return await_end(path, pidfd);
	if (rc == ERR_BUSY)
		tell_holders(c, path);
	else
		say(path, err_text(rc));
	if (served)
		resume(c, path);
	return CMD_FAIL;
}

static int
stop(const struct client *c, const struct opts *o)
{
	const char *path = c->place.path;
	struct buf b = BUF_INIT;
	char line[64];
	int ms = o->timeout >= 0 ? o->timeout : (int)c->conf.stop_wait;
	bool served;
	int pidfd = watch_supervisor(c, &served), rc, code;

	snprintf(line, sizeof(line), "drain timeout=%d", ms);
	rc = client_ask(c, line, ms + DRAIN_EXTRA_MS, served ? PATIENCE_MS : 0, &b);
	served = rc != ERR_CLOSED && rc != ERR_NOTFOUND && rc != ERR_LINK;
	if (rc == 0 && !still_drained(c)) {
		rc = ERR_CLOSED;
		buf_printf(&b, "its server died meanwhile");
	}
	if (rc != 0 || b.len > 0) /* what a proof found, and mended */
		say(path, buf_str(&b));
	if (rc == ERR_BUSY)
		tell_holders(c, path);
	if (rc != 0 && !o->force) {
		say(path, "nothing was proven, so it is not unmounted; --force does it "
			  "all "
			  "the same");
		if (served && rc != ERR_EXISTS) /* what another one drains is his */
			resume(c, path);
		code = CMD_FAIL;
	} else {
		code = take_away(c, o, served, pidfd);
		if (code == CMD_OK && rc != 0) {
			say(path, "unmounted without proof; the next mount catches up");
			code = CMD_FAIL;
		}
	}
	if (pidfd >= 0)
		close(pidfd);
	buf_fini(&b);
	return code;
}

static int
umount_slot(const struct opts *o)
{
	struct client *c = calloc(1, sizeof(*c));
	struct buf why = BUF_INIT;
	int code = CMD_FAIL, rc;

	log_open("twinspool", false, LOG_LEVEL_WARN);
	if (c == NULL)
		return CMD_FAIL;
	rc = client_find(o->arg, c, &why);
	if (c->mounted && rc != 0 && o->force) {
		/* Without its configuration nobody can be asked, but it can go. */
		fputs(buf_str(&why), stderr);
		rc = unmount_now(c->place.path, o->lazy);
		if (rc != 0)
			say(c->place.path, err_text(rc));
	} else if (rc != 0) {
		fprintf(stderr, "twinspool: %s", buf_str(&why));
	} else if (!c->mounted) {
		say(c->conf.mountpoint, "not mounted");
	} else {
		code = stop(c, o);
	}
	buf_fini(&why);
	free(c);
	return code;
}

int
cmd_umount(int argc, char **argv)
{
	static const struct option longs[] = { { "force", no_argument, NULL, 'f' },
		{ "lazy", no_argument, NULL, 'l' },
		{ "timeout", required_argument, NULL, 'T' }, { NULL, 0, NULL, 0 } };
	struct opts o = { false, false, -1, NULL };
	int c;

	while ((c = getopt_long(argc, argv, "flT:", longs, NULL)) != -1) {
		if (c == 'f')
			o.force = true;
		else if (c == 'l')
			o.lazy = true;
		else if (c != 'T' || (o.timeout = client_time(optarg)) < 0)
			return usage();
	}
	if (optind + 1 != argc)
		return usage();
	o.arg = argv[optind];
	return umount_slot(&o);
}

int
cmd_umount_helper(int argc, char **argv)
{
	struct opts o = { false, false, -1, NULL };
	int c;

	while ((c = getopt(argc, argv, "flnrvN:t:")) != -1) {
		if (c == '?')
			return usage();
		o.force |= c == 'f';
		o.lazy |= c == 'l';
	}
	if (optind + 1 != argc)
		return usage();
	o.arg = argv[optind];
	return umount_slot(&o);
}
