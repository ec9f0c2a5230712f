/*
 * super.h - the supervisor: it mounts, keeps /dev/fuse and what must outlive a server, and
 * starts the server again when that dies.
 *
 * One process, one thread, no network, no knowledge of mail. A server is a fork of it (no exec)
 * and so inherits everything below at the same place: the device, the shared memory, the open
 * descriptors. The mount ends when a server exits with SUPER_END.
 *
 *   server exits SUPER_END    unmounted: the supervisor ends too, with success
 *   the first exits SUPER_FAIL  it cannot serve: unmount, end, failure
 *   a death that cannot be outlived  let go of the device, end, failure: the mount is dead
 *   anything else             a death: take in the pins it had sent, fork the next one
 *
 * Pins     A file without a name lives as long as a descriptor of it is open somewhere. The server
 *          sends one here before it removes the last name; a descriptor under way is held by the
 *          kernel, so nobody waits for an answer. All that were sent before a death are taken in
 *          before the next fork, and the new server finds them with super_each_pin.
 * Signals  SIGTERM, SIGINT and SIGHUP go to the server; what they mean is its business.
 */
#ifndef FS_SUPER_H
#define FS_SUPER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { SUPER_END = 0, SUPER_FAIL = 78 };

#define SUPER_PINS_MAX 60000

/* What a server finds; the supervisor's private memory, copied to it by fork. */
struct super {
	int dev_fd; /* /dev/fuse, mounted */
	int pin_fd; /* the server's end of the socket */
	void *shared; /* MAP_SHARED, at the same address in every server */
	size_t shared_size;
	unsigned births; /* 1 for the first server */
	int death_signal; /* what ended the one before; 0 if it exited */
	pid_t pid; /* of the supervisor */
	/* the rest is the supervisor's own */
	int pin_take_fd, signal_fd;
	pid_t server;
	int asked; /* the last signal passed on, and when */
	uint64_t asked_at;
	struct super_pin *pins;
	uint32_t npins;
};

struct super_opts {
	const char *source; /* what /proc/mounts shows as the device */
	const char *mountpoint;
	bool read_only;
	bool over_dead; /* a dead mount lies on the mount point: cover it, then remove it */
	unsigned max_read;
	size_t shared_size;
	/* Before the first server: lays out the shared memory, which is all zero. */
	void (*prepare)(void *shared, void *arg);
	/* A server's whole life; its return value is the exit code. */
	int (*serve)(struct super *su, void *arg);
	/* After a death: whether another server can go on with what is in the memory. Else the mount
	 * is given up, so that it answers ENOTCONN. NULL: it always can. */
	bool (*outlives)(const void *shared, void *arg);
	void *arg;
};

/* Mounts and stays until the mount ends. 0, or a negative code of err.h, logged: ERR_CLOSED if a dead
 * mount is left. */
int super_run(const struct super_opts *opts);

/* For the server. Sends a descriptor to be kept for nodeid (the caller keeps its own), or says
 * that it is no longer needed. A positive errno if the supervisor cannot be reached. */
int super_pin(struct super *su, uint64_t nodeid, int fd);
void super_unpin(struct super *su, uint64_t nodeid);
/* In a new server, before its threads: what earlier ones pinned. */
void super_each_pin(
	struct super *su, void (*fn)(uint64_t nodeid, int fd, void *arg), void *arg);

#endif
