/*
 * mount.h - a mount from start to end: refusals, supervisor, FUSE session, threads.
 *
 * mount_run returns when the mount has ended. Everything named on_* runs in the server process,
 * again in each one that takes over; their threads and memory die with it.
 */
#ifndef FS_MOUNT_H
#define FS_MOUNT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct mount_opts {
	const char *source; /* absolute path of SLOT.conf: the device in /proc/mounts */
	const char *mountpoint, *spool, *state; /* absolute paths */
	bool standby; /* mounted read-only, nothing cached by time */
	bool xattr;
	bool put_off; /* sync: commit */
	bool uring; /* requests by io_uring, if it can be had */
	unsigned threads;
	/* Before the first request is answered. takeover: an earlier server died; root_fd: the
	 * spool. Not 0: this slot cannot run, unmount. */
	int (*on_start)(int root_fd, bool takeover, void *arg);
	/* SIGTERM, SIGINT or SIGHUP, in a thread that may take its time. NULL: it is unmounted. */
	void (*on_signal)(int sig, void *arg);
	/* Unmounted, the last request is answered. */
	void (*on_stop)(void *arg);
	void *arg;
};

/* 0, or a negative code of err.h, logged. */
int mount_run(const struct mount_opts *opts);

/* In the server. */
pid_t mount_supervisor_pid(void);
/* How requests come: "dev" or "uring". */
const char *mount_transport(void);

#endif
