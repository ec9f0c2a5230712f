/*
 * disk.c - one relaxed addition before each call.
 */
#include "meta/base/disk.h"

#include <stddef.h>
#include <unistd.h>

#define NAME_ROW(id, name) name,
const char *const disk_names[DISK_WHATS] = { DISK_TABLE(NAME_ROW) };
#undef NAME_ROW

static _Atomic uint64_t own[DISK_WHATS];
static _Atomic uint64_t *_Atomic counts = own;

void
disk_count_in(_Atomic uint64_t *other)
{
	atomic_store(&counts, other != NULL ? other : own);
}

void
disk_count(enum disk_what what)
{
	_Atomic uint64_t *in = atomic_load_explicit(&counts, memory_order_acquire);

	atomic_fetch_add_explicit(&in[what], 1, memory_order_relaxed);
}

uint64_t
disk_counted(enum disk_what what)
{
	return atomic_load_explicit(&atomic_load(&counts)[what], memory_order_relaxed);
}

int
disk_sync(int fd, enum disk_what what)
{
	disk_count(what);
	return fsync(fd);
}

int
disk_datasync(int fd, enum disk_what what)
{
	disk_count(what);
	return fdatasync(fd);
}

int
disk_sync_all(int fd)
{
	disk_count(DISK_SPOOL);
	return syncfs(fd);
}
