/*
 * power_own.h - the lines of the log between powerlog.c and power.c. For these two only.
 */
#ifndef TESTS_SIM_POWER_OWN_H
#define TESTS_SIM_POWER_OWN_H

#include <stdint.h>

enum power_kind {
	/* dir, name, ino; mode says file, folder or link; data: a link's target. dir 0: no name yet */
	POWER_CREATE = 1,
	POWER_WRITE, /* ino, at, data */
	POWER_SIZE, /* ino, at: truncated or grown to that */
	POWER_SYNC, /* ino; 0: everything */
	POWER_LINK, /* dir, name, ino */
	POWER_UNLINK, /* dir, name; also a folder's */
	POWER_RENAME, /* dir, name to dir2, data; at 1: the two change places */
	POWER_ATTRS /* ino, mode, uid, gid, at: mtime in ns */
};

/* The name and the data follow, without NULs. */
struct power_op {
	uint32_t kind, name_n;
	uint64_t ino, dir, dir2, at, data_n;
	uint32_t mode, uid, gid, magic;
	uint64_t time; /* of a write, wall clock in ns */
};

#define POWER_MAGIC 0x70777231u

#endif
