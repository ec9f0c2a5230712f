/*
 * super.c - the supervisor; see super.h for what it promises.
 *
 * Life: mount; then again and again: fork a server, wait for it to end. While waiting it does two
 * small things: passes signals on, and takes in pins.
 *
 * Deaths that come fast are slowed down, so that a server that cannot live does not burn the
 * machine: the first few start again at once, then the pause doubles. SIGKILL comes from outside
 * (an administrator, the out-of-memory killer, a test), so its pause stays short.
 *
 * A dead mount (the supervisor died as well) still covers the folder and answers ENOTCONN. The
 * new mount goes beneath it and then the dead one is taken off, so the bare folder never shows.
 * Kernels before 6.5 cannot mount beneath: there the new one goes on top, and the dead one below is
 * taken off after a clean stop.
 */
#include "fs/super.h"

#include "fs/bare.h"
#include "fs/refuse.h"
#include "fs/unmount.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef MOVE_MOUNT_BENEATH
#define MOVE_MOUNT_BENEATH 0x00000200
#endif

#define FAST_DEATH_MS 2000
#define ASKED_MAX_MS 90000
#define FREE_DEATHS 3
#define COVERED_MAX 64
#define PAUSE_MAX_MS 5000
#define PAUSE_KILLED_MAX_MS 20

struct super_pin {
	uint64_t nodeid; /* 0: free */
	int fd;
};

struct pin_msg {
	uint64_t nodeid;
	uint64_t keep; /* 1 with a descriptor, 0 to let go */
};

/* ---- pins ---- */

#define PIN_SLOTS (1u << 17) /* open addressing, never more than half full */

static struct super_pin *
pin_find(struct super *su, uint64_t nodeid)
{
	uint32_t i = (uint32_t)(nodeid * 0x9e3779b97f4a7c15ull >> 47) % PIN_SLOTS;

	while (su->pins[i].nodeid != 0 && su->pins[i].nodeid != nodeid)
		i = (i + 1) % PIN_SLOTS;
	return &su->pins[i];
}

static void
pin_let_go(struct super *su, uint64_t nodeid)
{
	struct super_pin *p = pin_find(su, nodeid);
	uint32_t i;

	if (p->nodeid == 0)
		return;
	close(p->fd);
	p->nodeid = 0;
	su->npins--;
	/* what was pushed behind it by a collision is put in again */
	for (i = (uint32_t)(p - su->pins + 1) % PIN_SLOTS; su->pins[i].nodeid != 0;
		i = (i + 1) % PIN_SLOTS) {
		struct super_pin moved = su->pins[i];

		su->pins[i].nodeid = 0;
		*pin_find(su, moved.nodeid) = moved;
	}
}

static void
pin_keep(struct super *su, uint64_t nodeid, int fd)
{
	struct super_pin *p = pin_find(su, nodeid);

	if (p->nodeid != 0) {
		close(fd); /* pinned twice by a request that was redone */
		return;
	}
	if (su->npins >= SUPER_PINS_MAX) {
		log_err("too many files without a name, one is lost at the next "
			"restart "
			"nodeid=%llu",
			(unsigned long long)nodeid);
		close(fd);
		return;
	}
	p->nodeid = nodeid;
	p->fd = fd;
	su->npins++;
}

/* Takes in all messages that have arrived. */
static void
pin_take(struct super *su)
{
	for (;;) {
		struct pin_msg msg;
		union {
			char space[CMSG_SPACE(sizeof(int))];
			struct cmsghdr align;
		} ctl;
		struct iovec iov = { &msg, sizeof(msg) };
		struct msghdr mh = { .msg_iov = &iov,
			.msg_iovlen = 1,
			.msg_control = &ctl,
			.msg_controllen = sizeof(ctl) };
		struct cmsghdr *c;
		int fd = -1;

		ssize_t n =
			recvmsg(su->pin_take_fd, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		if (n < 0 && errno == EINTR)
			continue;
		if (n != (ssize_t)sizeof(msg))
			return;
		c = CMSG_FIRSTHDR(&mh);
		if (c != NULL && c->cmsg_level == SOL_SOCKET &&
			c->cmsg_type == SCM_RIGHTS &&
			c->cmsg_len == CMSG_LEN(sizeof(int)))
			memcpy(&fd, CMSG_DATA(c), sizeof(fd));
		if (msg.keep == 0)
			pin_let_go(su, msg.nodeid);
		else if (fd >= 0)
			pin_keep(su, msg.nodeid, fd);
		else
			log_err("a file without a name could not be kept: out of "
				"descriptors nodeid=%llu",
				(unsigned long long)msg.nodeid);
	}
}

static int
pin_send(struct super *su, uint64_t nodeid, int fd)
{
	struct pin_msg msg = { .nodeid = nodeid, .keep = fd >= 0 };
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} ctl;
	struct iovec iov = { &msg, sizeof(msg) };
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		memset(&ctl, 0, sizeof(ctl));
		mh.msg_control = &ctl;
		mh.msg_controllen = sizeof(ctl.space);
		struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	}
	while (sendmsg(su->pin_fd, &mh, MSG_NOSIGNAL) < 0) {
		if (errno == EINTR)
			continue;
		return errno;
	}
	return 0;
}

int
super_pin(struct super *su, uint64_t nodeid, int fd)
{
	return pin_send(su, nodeid, fd);
}

void
super_unpin(struct super *su, uint64_t nodeid)
{
	(void)pin_send(su, nodeid, -1); /* the next server says it again */
}

void
super_each_pin(
	struct super *su, void (*fn)(uint64_t nodeid, int fd, void *arg), void *arg)
{
	for (uint32_t i = 0; su->pins != NULL && i < PIN_SLOTS; i++) {
		if (su->pins[i].nodeid != 0)
			fn(su->pins[i].nodeid, su->pins[i].fd, arg);
	}
}

/* ---- mounting ---- */

static int
mount_plain(const struct super_opts *o, int dev_fd)
{
	char data[256];
	unsigned long flags = MS_NOSUID | MS_NODEV | (o->read_only ? MS_RDONLY : 0);

	snprintf(data, sizeof(data),
		"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,"
		"default_permissions,max_read=%u",
		dev_fd, o->max_read);
	return mount(o->source, o->mountpoint, "fuse.twinspool", flags, data);
}

/* Beneath the dead mount, which is then taken off. */
static int
mount_beneath(const struct super_opts *o, int dev_fd)
{
	char fd_text[16], max_text[16];
	int fs = -1, mnt = -1, rc = -1;

	snprintf(fd_text, sizeof(fd_text), "%d", dev_fd);
	snprintf(max_text, sizeof(max_text), "%u", o->max_read);
	const struct {
		const char *key, *value;
	} set[] = { { "source", o->source }, { "subtype", "twinspool" },
		{ "fd", fd_text }, { "rootmode", "40000" }, { "user_id", "0" },
		{ "group_id", "0" }, { "allow_other", NULL },
		{ "default_permissions", NULL }, { "max_read", max_text },
		{ o->read_only ? "ro" : "rw", NULL } };

	fs = fsopen("fuse", FSOPEN_CLOEXEC);
	if (fs < 0)
		goto out;
	for (size_t i = 0; i < sizeof(set) / sizeof(set[0]); i++) {
		unsigned cmd =
			set[i].value != NULL ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG;

		if (fsconfig(fs, cmd, set[i].key, set[i].value, 0) != 0)
			goto out;
	}
	if (fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) != 0)
		goto out;
	mnt = fsmount(fs, FSMOUNT_CLOEXEC,
		MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV |
			(o->read_only ? MOUNT_ATTR_RDONLY : 0));
	if (mnt < 0)
		goto out;
	if (move_mount(mnt, "", AT_FDCWD, o->mountpoint,
		    MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_BENEATH) != 0)
		goto out;
	if (umount2(o->mountpoint, MNT_DETACH) != 0)
		log_warn("the dead mount could not be taken off path=%s error=%s",
			o->mountpoint, strerror(errno));
	rc = 0;
out:
	if (mnt >= 0)
		close(mnt);
	if (fs >= 0)
		close(fs);
	return rc;
}

static int
open_device(void)
{
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		log_err("cannot open /dev/fuse error=%s", strerror(errno));
	return fd;
}

/* Before Linux 6.5 a new mount can only cover a dead one. When ours is gone that one shows, and those
 * that it had covered itself: they go as well. */
static void
take_off_covered(const struct super_opts *o, uint64_t ours)
{
	struct mount_place *at = malloc(sizeof(*at));

	for (int i = 0; at != NULL && i < COVERED_MAX; i++) {
		if (unmount_find(o->mountpoint, at) != 0 || at->id == ours ||
			strcmp(at->source, o->source) != 0 ||
			!refuse_is_dead(o->mountpoint))
			break;
		if (umount2(o->mountpoint, UMOUNT_NOFOLLOW | MNT_DETACH) != 0) {
			log_warn("a dead mount could not be taken off path=%s error=%s",
				o->mountpoint, strerror(errno));
			break;
		}
	}
	free(at);
}

static uint64_t
mount_id(const char *path)
{
	struct mount_place *at = malloc(sizeof(*at));
	uint64_t id = at != NULL && unmount_find(path, at) == 0 ? at->id : 0;

	free(at);
	return id;
}

static int
mount_it(const struct super_opts *o, int *dev_out)
{
	int fd = open_device();

	if (fd < 0)
		return ERR_IO;
	if (!o->over_dead)
		bare_guard(o->mountpoint);
	else {
		if (mount_beneath(o, fd) == 0) {
			*dev_out = fd;
			return 0;
		}
		log_warn("the kernel cannot mount beneath the dead mount, it stays "
			 "below the new one until a clean stop path=%s error=%s",
			o->mountpoint, strerror(errno));
		close(fd); /* a device serves one attempt */
		fd = open_device();
		if (fd < 0)
			return ERR_IO;
	}
	if (mount_plain(o, fd) != 0) {
		log_err("cannot mount path=%s error=%s", o->mountpoint,
			strerror(errno));
		close(fd);
		return ERR_IO;
	}
	*dev_out = fd;
	return 0;
}

/* ---- the server's deaths ---- */

/* Until the server has ended: pass signals on, take pins in. Its wait status. */
static int
wait_for_server(struct super *su)
{
	struct pollfd p[2] = { { .fd = su->signal_fd, .events = POLLIN },
		{ .fd = su->pin_take_fd, .events = POLLIN } };
	int status = 0;

	for (;;) {
		struct signalfd_siginfo si;

		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return 0;
		if (p[1].revents & POLLIN)
			pin_take(su);
		if (!(p[0].revents & POLLIN) ||
			read(su->signal_fd, &si, sizeof(si)) != (ssize_t)sizeof(si))
			continue;
		if (si.ssi_signo != SIGCHLD) {
			su->asked = (int)si.ssi_signo;
			su->asked_at = clock_ms();
			kill(su->server, su->asked);
		} else if (waitpid(su->server, &status, WNOHANG) == su->server)
			return status;
	}
}

/* A stop that was asked for just before a death is not forgotten: the next server has the signal
 * pending from its birth. An old one is, since that server said why it could not stop. */
static void
ask_again(struct super *su)
{
	if (su->asked != 0 && clock_ms() - su->asked_at < ASKED_MAX_MS)
		kill(su->server, su->asked);
}

static void
pause_after_death(uint64_t lived_ms, bool killed, unsigned *fast)
{
	uint64_t pause;

	if (lived_ms > FAST_DEATH_MS) {
		*fast = 0;
		return;
	}
	if (++*fast <= FREE_DEATHS)
		return;
	pause = 10ull << (*fast - FREE_DEATHS < 10 ? *fast - FREE_DEATHS : 10);
	if (pause > (killed ? PAUSE_KILLED_MAX_MS : PAUSE_MAX_MS))
		pause = killed ? PAUSE_KILLED_MAX_MS : PAUSE_MAX_MS;
	struct timespec ts = { (time_t)(pause / 1000), (long)(pause % 1000) * 1000000 };
	nanosleep(&ts, NULL);
}

static int
keep_serving(struct super *su, const struct super_opts *o)
{
	unsigned fast = 0;

	for (;;) {
		uint64_t born = clock_ms();

		su->births++;
		su->server = fork();
		if (su->server < 0) {
			log_err("cannot start a server error=%s", strerror(errno));
			pause_after_death(0, false, &fast);
			continue;
		}
		if (su->server == 0) {
			close(su->pin_take_fd);
			close(su->signal_fd);
			prctl(PR_SET_NAME, "twinspool-serve");
			_exit(o->serve(su, o->arg));
		}
		ask_again(su);
		int status = wait_for_server(su);
		pin_take(su);
		if (WIFEXITED(status) && WEXITSTATUS(status) == SUPER_END)
			return 0;
		if (WIFEXITED(status) && WEXITSTATUS(status) == SUPER_FAIL &&
			su->births == 1)
			return ERR_IO;
		su->death_signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
		if (o->outlives != NULL && !o->outlives(su->shared, o->arg)) {
			log_err("the server died and its requests with it: the mount "
				"ends pid=%d signal=%d",
				(int)su->server, su->death_signal);
			return ERR_CLOSED;
		}
		log_warn("the server died, starting it again pid=%d signal=%d exit=%d",
			(int)su->server, su->death_signal,
			WIFEXITED(status) ? WEXITSTATUS(status) : 0);
		pause_after_death(
			clock_ms() - born, su->death_signal == SIGKILL, &fast);
	}
}

static int
prepare(struct super *su, const struct super_opts *o)
{
	struct rlimit lim;
	int memfd, pair[2];
	sigset_t set;

	if (getrlimit(RLIMIT_NOFILE, &lim) == 0) {
		rlim_t want = 2 * SUPER_PINS_MAX + 65536;

		lim.rlim_cur = lim.rlim_max = lim.rlim_max > want ? lim.rlim_max : want;
		if (setrlimit(RLIMIT_NOFILE, &lim) != 0 &&
			getrlimit(RLIMIT_NOFILE, &lim) == 0) {
			lim.rlim_cur = lim.rlim_max;
			(void)setrlimit(RLIMIT_NOFILE, &lim);
		}
	}
	memfd = memfd_create("twinspool", MFD_CLOEXEC);
	if (memfd < 0 || ftruncate(memfd, (off_t)o->shared_size) != 0)
		return ERR_NOMEM;
	su->shared = mmap(NULL, o->shared_size, PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_NORESERVE, memfd, 0);
	close(memfd);
	su->pins = calloc(PIN_SLOTS, sizeof(*su->pins));
	if (su->shared == MAP_FAILED || su->pins == NULL)
		return ERR_NOMEM;
	su->shared_size = o->shared_size;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
		return ERR_IO;
	su->pin_fd = pair[0];
	su->pin_take_fd = pair[1];

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	su->signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
	if (su->signal_fd < 0)
		return ERR_IO;
	su->pid = getpid();
	o->prepare(su->shared, o->arg);
	return 0;
}

int
super_run(const struct super_opts *o)
{
	struct super su = { .dev_fd = -1,
		.pin_fd = -1,
		.pin_take_fd = -1,
		.signal_fd = -1,
		.shared = MAP_FAILED };
	int rc = prepare(&su, o);
	uint64_t ours;

	if (rc != 0) {
		log_err("cannot start error=%s", strerror(errno));
		goto out;
	}
	rc = mount_it(o, &su.dev_fd);
	if (rc != 0)
		goto out;
	ours = mount_id(o->mountpoint);
	rc = keep_serving(&su, o);
	if (rc == 0)
		take_off_covered(o, ours);
	/* The bare folder must not show where a mount has died. */
	if (rc != 0 && rc != ERR_CLOSED)
		(void)umount2(o->mountpoint, MNT_DETACH);
out:
	if (su.dev_fd >= 0)
		close(su.dev_fd);
	if (su.pin_fd >= 0)
		close(su.pin_fd);
	if (su.pin_take_fd >= 0)
		close(su.pin_take_fd);
	if (su.signal_fd >= 0)
		close(su.signal_fd);
	if (su.shared != MAP_FAILED)
		munmap(su.shared, su.shared_size);
	free(su.pins);
	return rc;
}
