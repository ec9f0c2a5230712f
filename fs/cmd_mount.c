/*
 * How it works: wiring only. The configuration is read, the program goes into the background,
 * and mount_run does the rest, calling the functions below in the server process.
 *
 * In the background the launcher that was called stays until the slot serves or has failed: the
 * servers' log lines and then the word "ready" come to it through a socket, so that the
 * administrator reads at the terminal why a mount was refused.
 */
#include "fs/cmd.h"
#include "fs/conf.h"
#include "fs/gate.h"
#include "fs/inode.h"
#include "fs/mount.h"
#include "fs/repl.h"
#include "fs/service.h"
#include "fs/shown.h"
#include "fs/stats.h"
#include "fs/unmount.h"
#include "meta/base/buf.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <syslog.h>
#include <unistd.h>

static struct conf conf; /* large, and must outlive the servers' forks */
static uint64_t started, begun_ms; /* wall clock and clock_ms of the mount's start */
static int launcher = -1; /* socket to the one who called us */

enum { HELLO_POLL_US = 5000, GUARD_POLL_US = 100000 };

struct helper {
	pthread_t thread;
	bool runs;
};

/* Brings the slot from "mounted" to "serving"; shuts the gate while no peer confirms (when_alone:
 * refuse). */
static struct helper settle, guard;
static bool first_server;
static _Atomic bool stopping;

/* ---- to the launcher: 'l' and a line, or 'y' for ready ---- */

static void
log_to_both(enum log_level level, const char *line)
{
	static const int priority[] = { LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG };
	static const char *const word[] = { "error", "warning", "info", "debug" };
	char packet[2100];
	int n = snprintf(packet, sizeof(packet), "ltwinspool: %s\n", line);

	syslog(priority[level], "%s: %s", word[level], line);
	if (level <= LOG_LEVEL_WARN && n > 0)
		(void)!send(launcher, packet,
			n < (int)sizeof(packet) ? (size_t)n : sizeof(packet) - 1,
			MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Stays until the word comes; a socket that ends without it is a failure, and then the lines are
 * shown: what is only worth a warning does not matter to one who sees the slot serve. */
static int
await_ready(int fd)
{
	struct buf lines = BUF_INIT;
	char packet[2100];
	ssize_t n;

	while ((n = recv(fd, packet, sizeof(packet), 0)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 || packet[0] == 'y')
			break;
		buf_put(&lines, packet + 1, (size_t)n - 1);
	}
	if (n <= 0 && lines.len > 0)
		fwrite(lines.data, 1, lines.len, stderr);
	buf_fini(&lines);
	return n > 0 ? CMD_OK : CMD_FAIL;
}

/* Forks; the parent exits here. 0 in the child, or a code if it could not be done. */
static int
go_behind(void)
{
	int ends[2], null;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return err_from_errno(errno);
	switch (fork()) {
	case -1:
		return err_from_errno(errno);
	case 0:
		break;
	default:
		close(ends[1]);
		_exit(await_ready(ends[0]));
	}
	close(ends[0]);
	launcher = ends[1];
	log_set_hook(log_to_both);
	setsid();
	null = open("/dev/null", O_RDWR);
	if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0 ||
		chdir("/") < 0)
		return err_from_errno(errno);
	if (null > 2)
		close(null);
	return 0;
}

/* The service manager's socket: a path, or an abstract name behind @. */
static void
notify(const char *text)
{
	const char *name = getenv("NOTIFY_SOCKET");
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	size_t n = name != NULL ? strlen(name) : 0;
	int fd;

	if (n < 2 || n >= sizeof(sa.sun_path) || (name[0] != '/' && name[0] != '@'))
		return;
	memcpy(sa.sun_path, name, n);
	if (name[0] == '@')
		sa.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	if (sendto(fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&sa,
		    (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)) < 0)
		log_warn("service manager not told error=%s", strerror(errno));
	close(fd);
}

/* ---- in the server ---- */

static void
add_metrics(void *arg, struct buf *out)
{
	(void)arg;
	stats_render(conf.name, out);
	buf_printf(out,
		"# HELP twinspool_known_files files that the kernel may ask for by "
		"number\n"
		"# TYPE twinspool_known_files gauge\n"
		"twinspool_known_files{slot=\"%s\"} %u\n",
		conf.name, inode_count());
}

static const char *
gate_now(void *arg)
{
	(void)arg;
	return gate_word();
}

static int
shut_gate(void *arg, uint64_t ms, bool (*on)(void *), void *on_arg, struct buf *why)
{
	(void)arg;
	return gate_shut(ms, on, on_arg, why);
}

static void
open_gate(void *arg)
{
	(void)arg;
	(void)gate_open();
}

static const char *
transport_now(void *arg)
{
	(void)arg;
	return mount_transport();
}

static struct service_ops service_ops = { .gate = gate_now,
	.transport = transport_now,
	.shut = shut_gate,
	.open = open_gate,
	.metrics = add_metrics };

/* Until each peer has said hello, or an administrator's word, or start_wait is over: else changes
 * could be let in beside an active side that has gone on without us. False: the mount ended
 * meanwhile. */
static bool
await_peers(void)
{
	while (!stopping && !repl_greeted() && !repl_forced()) {
		if (conf.when_alone != CONF_REFUSE &&
			clock_ms() >= begun_ms + conf.start_wait) {
			log_warn("serving before every peer has said hello "
				 "start_wait=%llums",
				(unsigned long long)conf.start_wait);
			break;
		}
		usleep(HELLO_POLL_US);
	}
	return !stopping;
}

static void
say_ready(void)
{
	char text[128];

	if (!first_server)
		return;
	snprintf(text, sizeof(text), "READY=1\nMAINPID=%d\nSTATUS=Serving.\n",
		(int)mount_supervisor_pid());
	notify(text);
	if (launcher >= 0)
		(void)!send(launcher, "y", 1, MSG_NOSIGNAL);
}

/* In a thread of its own: mount(8) looks at the mount point, which is served only later. Whoever waits
 * for us to be ready waits for the peers too, but not where that may have no end. */
static void *
settle_main(void *arg)
{
	bool endless = conf.when_alone == CONF_REFUSE;

	(void)arg;
	if (first_server)
		unmount_register(conf.path, conf.mountpoint);
	gate_await_session();
	if (endless)
		say_ready();
	if (gate_refuses()) {
		if (!await_peers())
			return NULL;
		gate_admit();
	}
	if (!endless)
		say_ready();
	return NULL;
}

/* While no peer confirms and that is not to be ignored, no transaction begins. Asked for rather
 * than told, since this may be another server than the one that shut it. */
static void *
guard_main(void *arg)
{
	bool shut = false;

	(void)arg;
	gate_await_session();
	while (!stopping) {
		bool refusing = repl_refusing();
		if (refusing)
			gate_refuse();
		else if (shut)
			gate_admit();
		shut = refusing;
		usleep(GUARD_POLL_US);
	}
	return NULL;
}

static int
begin(struct helper *h, void *(*fn)(void *), const char *what)
{
	int err = pthread_create(&h->thread, NULL, fn, NULL);

	h->runs = err == 0;
	if (err != 0)
		log_err("cannot start the %s thread: %s", what, strerror(err));
	return err == 0 ? 0 : ERR_NOMEM;
}

static void
await(struct helper *h)
{
	if (h->runs)
		pthread_join(h->thread, NULL);
}

static int
on_start(int root_fd, bool takeover, void *arg)
{
	struct service_conf sc = { .conf = &conf,
		.ops = &service_ops,
		.supervisor = mount_supervisor_pid(),
		.started = started };
	int rc;

	(void)root_fd, (void)arg;
	rc = repl_start(&conf, takeover);
	if (rc != 0)
		return rc;
	if (!takeover && !repl_is_standby() && !repl_greeted())
		gate_refuse();
	repl_service(&service_ops);
	if (takeover)
		sc.restarts = stats_get(STATS_STARTS) - 1;
	rc = service_start(&sc);
	if (rc == 0)
		rc = shown_start(add_metrics, NULL);
	first_server = !takeover;
	/* no transaction begins without its guard */
	if (rc == 0 && conf.when_alone == CONF_REFUSE && !repl_is_standby())
		rc = begin(&guard, guard_main, "guard");
	if (rc == 0)
		rc = begin(&settle, settle_main, "settling");
	if (rc != 0 &&
		!guard.runs) /* else it ends with the process, as after a crash */
		repl_stop(false);
	return rc;
}

static void
on_signal(int sig, void *arg)
{
	(void)sig, (void)arg;
	notify("STOPPING=1\nSTATUS=Draining.\n");
	service_signal();
}

static void
on_stop(void *arg)
{
	bool clean;

	(void)arg;
	stopping = true;
	await(&settle);
	await(&guard);
	clean = service_stop();
	repl_stop(clean);
	unmount_unregister(conf.mountpoint);
}

/* ---- the command ---- */

static int
run(bool front)
{
	struct mount_opts opts = { .source = conf.path,
		.mountpoint = conf.mountpoint,
		.spool = conf.spool,
		.state = conf.state,
		.xattr = conf.xattr != 0,
		.put_off = conf.sync == CONF_COMMIT,
		.uring = conf.transport == CONF_URING,
		.threads = (unsigned)conf.threads,
		.on_start = on_start,
		.on_signal = on_signal,
		.on_stop = on_stop };
	char ident[16 + CONF_NAME_MAX];
	int rc;

	snprintf(ident, sizeof(ident), "twinspool/%s", conf.name);
	log_open(ident, !front, (enum log_level)conf.log);
	if (conf.xattr != 0 && conf.n_peers > 0)
		log_warn("extended attributes and access control lists stay on this "
			 "side: "
			 "`xattr: yes` does not replicate them");
	started = clock_wall_ns();
	begun_ms = clock_ms();
	rc = front ? 0 : go_behind();
	if (rc != 0) {
		log_err("cannot go into the background error=%s", err_text(rc));
		return CMD_FAIL;
	}
	if (repl_role(&conf, &opts.standby) != 0)
		return CMD_FAIL;
	return mount_run(&opts) == 0 ? CMD_OK : CMD_FAIL;
}

static bool
load(const char *path)
{
	struct buf complaints = BUF_INIT;
	int rc = conf_load(path, &conf, &complaints);

	fputs(buf_str(&complaints), stderr);
	if (rc != 0 && complaints.len == 0)
		fprintf(stderr, "twinspool: %s: %s\n", path, err_text(rc));
	buf_fini(&complaints);
	return rc == 0;
}

int
cmd_mount(int argc, char **argv)
{
	bool front = false;
	int c;

	while ((c = getopt(argc, argv, "f")) != -1) {
		if (c != 'f')
			goto usage;
		front = true;
	}
	if (optind + 1 != argc)
		goto usage;
	return load(argv[optind]) ? run(front) : CMD_FAIL;
usage:
	fputs("usage: twinspool mount [-f] SLOT.conf\n", stderr);
	return CMD_USAGE;
}

/* Options of fstab that mean nothing to us, or what we do anyway; those with = end in it. */
static bool
harmless(const char *option, size_t n)
{
	static const char *const words[] = { "defaults", "rw", "auto", "noauto",
		"nofail", "_netdev", "nosuid", "nodev", "nouser", "async", "relatime",
		"noatime", "nodiratime", "allow_other", "default_permissions" };

	if ((n > 2 && strncmp(option, "x-", 2) == 0) ||
		(n > 8 && strncmp(option, "comment=", 8) == 0))
		return true;
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (strlen(words[i]) == n && strncmp(words[i], option, n) == 0)
			return true;
	return false;
}

static bool
options_ok(const char *list, bool sloppy)
{
	for (const char *at = list; *at != '\0';) {
		size_t n = strcspn(at, ",");
		if (n > 0 && !harmless(at, n) && !sloppy) {
			fprintf(stderr,
				"twinspool: mount option \"%.*s\" is not for this file "
				"system"
				"; its configuration file says how it behaves\n",
				(int)n, at);
			return false;
		}
		at += n + (at[n] == ',');
	}
	return true;
}

int
cmd_mount_helper(int argc, char **argv)
{
	const char *options = "";
	bool fake = false, sloppy = false;
	char real[MOUNT_PATH_MAX];
	int c;

	while ((c = getopt(argc, argv, "o:fsnvt:N:")) != -1) {
		if (c == '?')
			goto usage;
		if (c == 'o')
			options = optarg;
		fake |= c == 'f';
		sloppy |= c == 's';
	}
	if (optind + 2 != argc)
		goto usage;
	if (!options_ok(options, sloppy))
		return CMD_USAGE;
	if (!load(argv[optind]))
		return CMD_FAIL;
	if (!unmount_real_path(argv[optind + 1], real) ||
		strcmp(real, conf.mountpoint) != 0) {
		fprintf(stderr,
			"twinspool: %s: its mountpoint is %s, expected the same as "
			"%s\n",
			conf.path, conf.mountpoint, argv[optind + 1]);
		return CMD_FAIL;
	}
	return fake ? CMD_OK : run(false);
usage:
	fputs("usage: mount.fuse.twinspool SLOT.conf MOUNTPOINT [-o OPTIONS]\n",
		stderr);
	return CMD_USAGE;
}
