/*
 * power.h - what a disk holds after the power went: a model that drops all that was not synced.
 *
 * A process that calls power_record has every change below one folder written to a log: each
 * name made, taken or changed, each write with its bytes, each sync. Its syncs then cost nothing,
 * for only the log learns of them. power_cut reads the log, decides what of it the disk kept, and
 * puts the folder into that state. What the disk may keep (ext4 and XFS, and nothing kinder):
 *
 *   bytes   each unit of 512 of a file is as after any one of the writes to it since the file's
 *           last sync, or as before them all, each unit by itself; the size likewise
 *   names   made, taken, renamed in their order, up to any point behind the last sync of any
 *           file or folder: a sync commits all names before it, and owners, modes and times as
 *           they do. So a name may be there and its file empty or full of zeros
 *
 * Killing the process and cutting with POWER_KEEP_ALL is what kill -9 alone would leave.
 *
 * Not modelled: writes through a mapping (SQLite's -shm, which no restart reads), devices,
 * extended attributes, descriptors made by another process. A file keeps its inode number if it
 * lives through the cut, a folder does not.
 *
 * The recorder, powerlog.c, is the functions of libc that change files, defined once more; it
 * calls the real ones. It is linked into the tests of this folder, and as the shared object
 * powerlog.so it does the same for any program by LD_PRELOAD, with POWER_ROOT and POWER_LOG in
 * its environment: one program at a time for a folder.
 *
 * Threads  a recording process may have any number; who calls power_cut knows that none runs.
 * Errors   of the machinery itself abort.
 */
#ifndef TESTS_SIM_POWER_H
#define TESTS_SIM_POWER_H

#include <stddef.h>
#include <stdint.h>

/* From here on changes below root (an absolute path) go to the end of the file log. NULL: stops. */
void power_record(const char *root, const char *log);

struct power;
enum power_loss {
	POWER_KEEP_ALL,
	POWER_DROP_ALL, /* whatever was not synced */
	POWER_ANY /* drawn for each unit and name */
};
struct power_facts {
	unsigned ops, writes, syncs; /* read from the log so far */
	unsigned lost_names,
		lost_writes; /* by the last cut; a write of which any unit went */
};

/* A disk whose folder root is as it is now, all of it synced. Nobody records it yet. */
struct power *power_open(const char *root, const char *log);
void power_close(struct power *p);
void power_cut(struct power *p, enum power_loss loss, uint64_t (*draw)(void),
	struct power_facts *out);

#endif
