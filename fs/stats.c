/*
 * stats.c - relaxed atomic counters in the shared memory.
 *
 * A counter is one word and each event one addition, so a death in between loses nothing and
 * counts nothing twice. Readers may see one counter newer than another.
 */
#include "fs/stats.h"

#include <linux/fuse.h>
#include <stdatomic.h>

#define OPCODES 64 /* those above are counted as 0, "OTHER" */

struct stats_shared {
	_Atomic uint64_t requests[OPCODES];
	_Atomic uint64_t other[STATS_IDS];
};

static const char *const opcode_names[OPCODES] = {
	[0] = "OTHER",
	[FUSE_LOOKUP] = "LOOKUP",
	[FUSE_FORGET] = "FORGET",
	[FUSE_GETATTR] = "GETATTR",
	[FUSE_SETATTR] = "SETATTR",
	[FUSE_READLINK] = "READLINK",
	[FUSE_SYMLINK] = "SYMLINK",
	[FUSE_MKNOD] = "MKNOD",
	[FUSE_MKDIR] = "MKDIR",
	[FUSE_UNLINK] = "UNLINK",
	[FUSE_RMDIR] = "RMDIR",
	[FUSE_RENAME] = "RENAME",
	[FUSE_LINK] = "LINK",
	[FUSE_OPEN] = "OPEN",
	[FUSE_READ] = "READ",
	[FUSE_WRITE] = "WRITE",
	[FUSE_STATFS] = "STATFS",
	[FUSE_RELEASE] = "RELEASE",
	[FUSE_FSYNC] = "FSYNC",
	[FUSE_SETXATTR] = "SETXATTR",
	[FUSE_GETXATTR] = "GETXATTR",
	[FUSE_LISTXATTR] = "LISTXATTR",
	[FUSE_REMOVEXATTR] = "REMOVEXATTR",
	[FUSE_FLUSH] = "FLUSH",
	[FUSE_INIT] = "INIT",
	[FUSE_OPENDIR] = "OPENDIR",
	[FUSE_READDIR] = "READDIR",
	[FUSE_RELEASEDIR] = "RELEASEDIR",
	[FUSE_FSYNCDIR] = "FSYNCDIR",
	[FUSE_ACCESS] = "ACCESS",
	[FUSE_CREATE] = "CREATE",
	[FUSE_INTERRUPT] = "INTERRUPT",
	[FUSE_DESTROY] = "DESTROY",
	[FUSE_IOCTL] = "IOCTL",
	[FUSE_BATCH_FORGET] = "BATCH_FORGET",
	[FUSE_FALLOCATE] = "FALLOCATE",
	[FUSE_READDIRPLUS] = "READDIRPLUS",
	[FUSE_RENAME2] = "RENAME2",
	[FUSE_LSEEK] = "LSEEK",
	[FUSE_COPY_FILE_RANGE] = "COPY_FILE_RANGE",
	[48] = "SETUPMAPPING",
	[49] = "REMOVEMAPPING",
	[50] = "SYNCFS",
	[51] = "TMPFILE",
	[52] = "STATX",
};

#define NAME_ROW(id, name, help) name,
static const char *const other_names[STATS_IDS] = { STATS_TABLE(NAME_ROW) };
#undef NAME_ROW
#define HELP_ROW(id, name, help) help,
static const char *const other_help[STATS_IDS] = { STATS_TABLE(HELP_ROW) };
#undef HELP_ROW

static struct stats_shared *_Atomic shared;

size_t
stats_shared_size(void)
{
	return sizeof(struct stats_shared);
}

void
stats_start(struct stats_shared *sh)
{
	atomic_store(&shared, sh);
}

static uint32_t
row_of(uint32_t opcode)
{
	return opcode < OPCODES && opcode_names[opcode] != NULL ? opcode : 0;
}

void
stats_request(uint32_t opcode)
{
	struct stats_shared *sh = atomic_load_explicit(&shared, memory_order_acquire);

	if (sh != NULL)
		atomic_fetch_add_explicit(
			&sh->requests[row_of(opcode)], 1, memory_order_relaxed);
}

void
stats_add(enum stats_id id, uint64_t n)
{
	struct stats_shared *sh = atomic_load_explicit(&shared, memory_order_acquire);

	if (sh != NULL)
		atomic_fetch_add_explicit(&sh->other[id], n, memory_order_relaxed);
}

uint64_t
stats_requests(uint32_t opcode)
{
	struct stats_shared *sh = atomic_load(&shared);

	return sh == NULL ? 0 : atomic_load(&sh->requests[row_of(opcode)]);
}

uint64_t
stats_get(enum stats_id id)
{
	struct stats_shared *sh = atomic_load(&shared);

	return sh == NULL ? 0 : atomic_load(&sh->other[id]);
}

void
stats_render(struct buf *out)
{
	uint64_t n;

	buf_printf(out,
		"# HELP twinspool_fuse_requests_total requests from the kernel\n"
		"# TYPE twinspool_fuse_requests_total counter\n");
	/* A kind that never came is left out: there are fifty and most mounts see fifteen. */
	for (uint32_t op = 0; op < OPCODES; op++)
		if (opcode_names[op] != NULL && (n = stats_requests(op)) != 0)
			buf_printf(out,
				"twinspool_fuse_requests_total{kind=\"%s\"} %llu\n",
				opcode_names[op], (unsigned long long)n);
	for (int id = 0; id < STATS_IDS; id++)
		buf_printf(out,
			"# HELP twinspool_%s_total %s\n"
			"# TYPE twinspool_%s_total counter\n"
			"twinspool_%s_total %llu\n",
			other_names[id], other_help[id], other_names[id],
			other_names[id],
			(unsigned long long)stats_get((enum stats_id)id));
}
