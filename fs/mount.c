/*
 * mount.c - the FUSE session over slots, inodes and the supervisor.
 *
 * The shared memory, in this order: counters, the gate, debts of syncs, slots, inodes.
 *
 * Capabilities. The kernel keeps its caches (no OPEN, no FLUSH, explicit invalidation, on the active
 * side no OPENDIR) because this mount is the only writer. On a standby replay writes below it, but
 * never into a file that the kernel knows (inode.h), and names and attributes are asked for each
 * time. Not wanted: atomic O_TRUNC, which would be lost with the OPEN that is never sent; automatic
 * invalidation, which would read a whole index again after each of our own writes; writeback cache,
 * which would hide the order of writes; splice, which would read past the slots.
 */
#include "fs/mount.h"

#include "fs/gate.h"
#include "fs/inode.h"
#include "fs/inval.h"
#include "fs/ops.h"
#include "fs/refuse.h"
#include "fs/ring.h"
#include "fs/round.h"
#include "fs/slot.h"
#include "fs/stats.h"
#include "fs/super.h"
#include "fs/vdir.h"
#include "meta/base/err.h"
#include "meta/base/fault.h"
#include "meta/base/log.h"

#include <errno.h>
#include <fuse_lowlevel.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

#define MAX_WRITE (256 * 1024)
#define SLOTS 48
#define MAX_INODES (16u << 20)
#define MAX_FDS 4096
#define PAGES(n) (((n) + 4095) / 4096 * 4096)

enum { DEAD_POLL_NS = 10 * 1000 * 1000, DEAD_POLLS = 1000 };

static struct {
	const struct mount_opts *opts;
	struct super *su;
	int root_fd;
	pthread_t watch;
} m = { .root_fd = -1 };

/* ---- shared memory ---- */

static size_t
stats_at(void)
{
	return 0;
}

static size_t
gate_at(void)
{
	return stats_at() + PAGES(stats_shared_size());
}

static size_t
rounds_at(void)
{
	return gate_at() + PAGES(gate_shared_size());
}

static size_t
slots_at(void)
{
	return rounds_at() + PAGES(round_shared_size());
}

/* Slots for requests that io_uring brings. */
static unsigned
rings(void)
{
	return m.opts->uring ? ring_entries() : 0;
}

static size_t
inodes_at(void)
{
	return slots_at() + PAGES(slot_shared_size(SLOTS, rings(), MAX_WRITE));
}

static void *
shared(size_t at)
{
	return (char *)m.su->shared + at;
}

/* Asked by the supervisor: what a ring has brought dies with the server. */
static bool
outlives(const void *memory, void *arg)
{
	(void)arg;
	return !slot_by_ring((const void *)((const char *)memory + slots_at()));
}

const char *
mount_transport(void)
{
	return slot_by_ring(shared(slots_at())) ? "uring" : "dev";
}

static void
prepare(void *memory, void *arg)
{
	(void)arg;
	slot_shared_init(
		(void *)((char *)memory + slots_at()), SLOTS, rings(), MAX_WRITE);
	inode_shared_init((void *)((char *)memory + inodes_at()), MAX_INODES);
}

/* ---- the session ---- */

static void
init(void *userdata, struct fuse_conn_info *conn)
{
	(void)userdata;
	conn->want &= ~(unsigned)(FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_AUTO_INVAL_DATA |
				  FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_SPLICE_READ |
				  FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE |
				  FUSE_CAP_HANDLE_KILLPRIV | FUSE_CAP_EXPORT_SUPPORT);
	conn->want |= conn->capable &
		      (FUSE_CAP_EXPLICIT_INVAL_DATA | FUSE_CAP_PARALLEL_DIROPS |
			      FUSE_CAP_CACHE_SYMLINKS);
	if (ops_env.xattr)
		conn->want |= conn->capable & (FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK);
	conn->max_write = MAX_WRITE;
	conn->max_read = MAX_WRITE;
	conn->time_gran = 1;
}

/* Opens are not our business: the kernel asks once and never again. */
static void
no_open(fuse_req_t req, fuse_ino_t nodeid, struct fuse_file_info *fi)
{
	(void)nodeid;
	(void)fi;
	fuse_reply_err(req, ENOSYS);
}

const struct fuse_lowlevel_ops ops_table = {
	.init = init,
	.lookup = ops_name_lookup,
	.forget = ops_name_forget,
	.forget_multi = ops_name_forget_multi,
	.getattr = ops_attr_get,
	.setattr = ops_attr_set,
	.readlink = ops_attr_readlink,
	.mknod = ops_name_mknod,
	.mkdir = ops_name_mkdir,
	.unlink = ops_name_unlink,
	.rmdir = ops_name_rmdir,
	.symlink = ops_name_symlink,
	.rename = ops_name_rename,
	.link = ops_name_link,
	.create = ops_name_create,
	.open = no_open,
	.opendir = ops_dir_open,
	.flush = no_open,
	.read = ops_data_read,
	.write = ops_data_write,
	.fsync = ops_data_fsync,
	.fallocate = ops_data_fallocate,
	.copy_file_range = ops_data_copy,
	.lseek = ops_data_lseek,
	.readdir = ops_dir_readdir,
	.readdirplus = ops_dir_readdirplus,
	.fsyncdir = ops_dir_fsync,
	.statfs = ops_attr_statfs,
	.setxattr = ops_attr_setxattr,
	.getxattr = ops_attr_getxattr,
	.listxattr = ops_attr_listxattr,
	.removexattr = ops_attr_removexattr,
};

static struct fuse_session *
session_new(void)
{
	static const struct fuse_custom_io io = { .writev = slot_writev,
		.read = slot_read };
	char max_read[32];
	char name[] = "twinspool";
	char *argv[] = { name, max_read, NULL };
	struct fuse_args args = FUSE_ARGS_INIT(2, argv);
	struct fuse_session *se;

	snprintf(max_read, sizeof(max_read), "-omax_read=%d", MAX_WRITE);
	se = fuse_session_new(&args, &ops_table, sizeof(ops_table), NULL);
	fuse_opt_free_args(&args);
	if (se != NULL && fuse_session_custom_io(se, &io, m.su->dev_fd) != 0)
		return NULL;
	return se;
}

/* ---- signals and the supervisor ---- */

static void
unmount(void)
{
	if (umount2(m.opts->mountpoint, 0) != 0)
		log_warn("cannot unmount path=%s error=%s", m.opts->mountpoint,
			strerror(errno));
}

pid_t
mount_supervisor_pid(void)
{
	return m.su->pid;
}

static void *
watch(void *arg)
{
	struct pollfd p[2] = { { .events = POLLIN },
		{ .fd = m.su->pin_fd, .events = 0 } };
	sigset_t set;

	(void)arg;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	p[0].fd = signalfd(-1, &set, SFD_CLOEXEC);
	for (;;) {
		struct signalfd_siginfo si;

		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return NULL;
		if (p[1].fd >= 0 && (p[1].revents & (POLLHUP | POLLERR))) {
			log_err("the supervisor is gone: the mount ends with this "
				"server");
			p[1].fd = -1;
		}
		if (!(p[0].revents & POLLIN) ||
			read(p[0].fd, &si, sizeof(si)) != (ssize_t)sizeof(si))
			continue;
		log_info("signal=%d", (int)si.ssi_signo);
		if (m.opts->on_signal != NULL)
			m.opts->on_signal((int)si.ssi_signo, m.opts->arg);
		else
			unmount();
	}
}

/* ---- a server's life ---- */

static int
start(struct super *su)
{
	struct fuse_session *se;
	struct stat st;
	int rc;

	if (fstat(m.root_fd, &st) != 0)
		return err_from_errno(errno);
	ops_env.dev = st.st_dev;
	ops_env.xattr = m.opts->xattr;
	ops_env.standby = m.opts->standby;
	if (m.opts->uring && rings() == 0)
		log_info("transport=dev: io_uring needs more than there is for these "
			 "cores");
	stats_start(shared(stats_at()));
	stats_add(STATS_STARTS, 1);
	vdir_start(su->births, st.st_uid, st.st_gid);
	rc = inode_start(shared(inodes_at()), su, m.root_fd, MAX_FDS);
	if (rc != 0)
		return rc;
	se = session_new();
	if (se == NULL) {
		log_err("no FUSE session");
		return ERR_NOMEM;
	}
	inval_start(se);
	rc = round_start(shared(rounds_at()), m.root_fd, m.opts->put_off);
	if (rc != 0)
		return rc;
	rc = slot_start(shared(slots_at()), su, se);
	/* Its threads tell the kernel to forget, and that goes out through the slots. */
	if (rc == 0)
		rc = gate_start(shared(gate_at()), m.opts->mountpoint, m.opts->standby,
			su->births > 1);
	if (rc == 0 && m.opts->on_start != NULL)
		rc = m.opts->on_start(m.root_fd, su->births > 1, m.opts->arg);
	int err = rc == 0 ? pthread_create(&m.watch, NULL, watch, NULL) : 0;
	if (err != 0) {
		log_err("cannot start a thread: %s", strerror(err));
		rc = ERR_NOMEM;
	}
	return rc;
}

static int
serve(struct super *su, void *arg)
{
	int rc;

	(void)arg;
	m.su = su;
	(void)prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	umask(0);
	rc = start(su);
	if (rc != 0) {
		log_err("the server cannot start error=%s", err_text(rc));
		return SUPER_FAIL;
	}
	FAULT("serve.started");
	log_info("serving path=%s pid=%d birth=%u", m.opts->mountpoint, (int)getpid(),
		su->births);
	rc = slot_run(m.opts->threads);
	round_stop();
	if (m.opts->on_stop != NULL)
		m.opts->on_stop(m.opts->arg);
	return rc == 0 ? SUPER_END : SUPER_FAIL;
}

/* The kernel takes back what the dead server's rings held in its own time. */
static void
await_dead(void)
{
	struct timespec pause = { .tv_nsec = DEAD_POLL_NS };

	for (int i = 0; i < DEAD_POLLS && !refuse_is_dead(m.opts->mountpoint); i++)
		nanosleep(&pause, NULL);
}

int
mount_run(const struct mount_opts *opts)
{
	struct super_opts so = { .source = opts->source,
		.mountpoint = opts->mountpoint,
		.read_only = opts->standby,
		.max_read = MAX_WRITE,
		.prepare = prepare,
		.serve = serve,
		.outlives = outlives };
	struct refuse_found found;
	int rc;

	rc = refuse_check(
		opts->mountpoint, opts->spool, opts->state, opts->xattr, &found);
	if (rc != 0)
		return rc;
	m.opts = opts;
	m.root_fd = found.root_fd;
	so.shared_size = inodes_at() + inode_shared_size(MAX_INODES);
	so.over_dead = found.over_dead;
	rc = super_run(&so);
	if (rc == ERR_CLOSED)
		await_dead();
	/* Never taken off by itself: the bare folder below must not be mistaken for the mail. */
	if (rc == 0 && refuse_is_dead(opts->mountpoint)) {
		log_err("the kernel's connection was aborted, the dead mount stays "
			"until the next start path=%s",
			opts->mountpoint);
		rc = ERR_CLOSED;
	}
	close(m.root_fd);
	return rc;
}
