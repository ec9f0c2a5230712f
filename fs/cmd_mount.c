/*
 * cmd_mount.c - `twinspool mount`: wiring only.
 *
 * Without -f the command returns once the slot serves: the child that goes on tells it so
 * through a pipe, or dies and closes the pipe without a word.
 */
#include "fs/cmd.h"

#include "fs/conf.h"
#include "fs/mount.h"
#include "meta/base/buf.h"
#include "meta/base/log.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int ready_fd = -1;

static void
tell_ready(void *arg)
{
	(void)arg;
	if (ready_fd < 0)
		return;
	(void)!write(ready_fd, "y", 1);
	close(ready_fd);
	ready_fd = -1;
}

/* In the parent: waits for the word and exits. In the child: returns 0. */
static int
go_behind(void)
{
	int ends[2], null;
	char word;

	if (pipe2(ends, O_CLOEXEC) != 0)
		return -1;
	switch (fork()) {
	case -1:
		return -1;
	case 0:
		break;
	default:
		close(ends[1]);
		_exit(read(ends[0], &word, 1) == 1 ? CMD_OK : CMD_FAIL);
	}
	close(ends[0]);
	ready_fd = ends[1];
	setsid();
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null >= 0) {
		dup2(null, 0);
		dup2(null, 1);
		dup2(null, 2);
	}
	return chdir("/");
}

int
cmd_mount(int argc, char **argv)
{
	static struct conf conf; /* large, and must outlive the servers' forks */
	struct buf complaints = BUF_INIT;
	struct mount_opts opts = { .on_ready = tell_ready };
	bool front = argc > 1 && strcmp(argv[1], "-f") == 0;
	int rc;

	if (argc != 2 + front) {
		fprintf(stderr, "usage: twinspool mount [-f] SLOT.conf\n");
		return CMD_USAGE;
	}
	rc = conf_load(argv[1 + front], &conf, &complaints);
	fputs(buf_str(&complaints), stderr);
	buf_fini(&complaints);
	if (rc != 0)
		return CMD_FAIL;
	opts.source = conf.path;
	opts.mountpoint = conf.mountpoint;
	opts.spool = conf.spool;
	opts.state = conf.state;
	opts.standby = conf.role == CONF_STANDBY;
	opts.xattr = conf.xattr != 0;
	opts.threads = (unsigned)conf.threads;
	log_open("twinspool", !front, (enum log_level)conf.log);
	if (!front && go_behind() != 0)
		return CMD_FAIL;
	return mount_run(&opts) == 0 ? CMD_OK : CMD_FAIL;
}
