/*
 * stats.c - relaxed atomic counters in the shared memory.
 *
 * A counter is one word and each event one addition, so a death in between loses nothing and
 * counts nothing twice. Readers may see one counter newer than another.
 */
#include "fs/stats.h"

#include "meta/base/disk.h"

#include <linux/fuse.h>
#include <stdatomic.h>
#include <sys/resource.h>

#define OPCODES 64 /* those above are counted as 0, "OTHER" */

struct stats_shared {
	_Atomic uint64_t requests[OPCODES];
	_Atomic uint64_t other[STATS_IDS];
	_Atomic uint64_t syncs[DISK_WHATS];
	_Atomic uint64_t answers[OPCODES][STATS_BUCKETS];
	_Atomic uint64_t answer_us[OPCODES]; /* sum */
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
	disk_count_in(sh != NULL ? sh->syncs : NULL);
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
stats_answer(uint32_t opcode, uint64_t us)
{
	struct stats_shared *sh = atomic_load_explicit(&shared, memory_order_acquire);
	unsigned b = us <= 1 ? 0 : 64 - (unsigned)__builtin_clzll(us - 1);
	uint32_t row = row_of(opcode);

	if (sh == NULL)
		return;
	if (b >= STATS_BUCKETS)
		b = STATS_BUCKETS - 1;
	atomic_fetch_add_explicit(&sh->answers[row][b], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&sh->answer_us[row], us, memory_order_relaxed);
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

uint64_t
stats_answers(uint32_t opcode, unsigned bucket)
{
	struct stats_shared *sh = atomic_load(&shared);

	return sh == NULL ? 0 : atomic_load(&sh->answers[row_of(opcode)][bucket]);
}

/* Of one kind, with the running sums that a histogram of Prometheus has. */
static void
render_times(
	const struct stats_shared *sh, uint32_t op, const char *slot, struct buf *out)
{
	static const char metric[] = "twinspool_fuse_request_seconds";
	const char *kind = opcode_names[op];
	uint64_t sum = 0;

	for (unsigned b = 0; b < STATS_BUCKETS; b++) {
		sum += atomic_load(&sh->answers[op][b]);
		buf_printf(out, "%s_bucket{slot=\"%s\",kind=\"%s\",le=\"", metric, slot,
			kind);
		if (b < STATS_BUCKETS - 1)
			buf_printf(out, "%.6f", (double)(1u << b) / 1e6);
		else
			buf_printf(out, "+Inf");
		buf_printf(out, "\"} %llu\n", (unsigned long long)sum);
	}
	buf_printf(out,
		"%s_sum{slot=\"%s\",kind=\"%s\"} %.6f\n"
		"%s_count{slot=\"%s\",kind=\"%s\"} %llu\n",
		metric, slot, kind, (double)atomic_load(&sh->answer_us[op]) / 1e6,
		metric, slot, kind, (unsigned long long)sum);
}

static void
render_histograms(const char *slot, struct buf *out)
{
	const struct stats_shared *sh = atomic_load(&shared);

	buf_printf(out,
		"# HELP twinspool_fuse_request_seconds from reading a request to its "
		"answer\n# TYPE twinspool_fuse_request_seconds histogram\n");
	for (uint32_t op = 0; sh != NULL && op < OPCODES; op++) {
		uint64_t any = 0;

		for (unsigned b = 0; b < STATS_BUCKETS; b++)
			any |= atomic_load(&sh->answers[op][b]);
		if (any != 0 && opcode_names[op] != NULL)
			render_times(sh, op, slot, out);
	}
}

static void
render_syncs(const char *slot, struct buf *out)
{
	buf_printf(out,
		"# HELP twinspool_syncs_total sync calls, by what they made durable\n"
		"# TYPE twinspool_syncs_total counter\n");
	for (int what = 0; what < DISK_WHATS; what++)
		buf_printf(out, "twinspool_syncs_total{slot=\"%s\",kind=\"%s\"} %llu\n",
			slot, disk_names[what],
			(unsigned long long)disk_counted((enum disk_what)what));
}

static double
seconds(struct timeval t)
{
	return (double)t.tv_sec + (double)t.tv_usec / 1e6;
}

/* Of this server since it was started; what the kernel knows already needs no counter. */
static void
render_usage(const char *slot, struct buf *out)
{
	struct rusage r;

	if (getrusage(RUSAGE_SELF, &r) != 0)
		return;
	buf_printf(out,
		"# HELP twinspool_cpu_seconds_total processor time of the server\n"
		"# TYPE twinspool_cpu_seconds_total counter\n"
		"twinspool_cpu_seconds_total{slot=\"%s\",mode=\"user\"} %.6f\n"
		"twinspool_cpu_seconds_total{slot=\"%s\",mode=\"system\"} %.6f\n"
		"# HELP twinspool_context_switches_total of the server's threads\n"
		"# TYPE twinspool_context_switches_total counter\n"
		"twinspool_context_switches_total{slot=\"%s\",kind=\"voluntary\"} %ld\n"
		"twinspool_context_switches_total{slot=\"%s\",kind=\"involuntary\"} "
		"%ld\n",
		slot, seconds(r.ru_utime), slot, seconds(r.ru_stime), slot, r.ru_nvcsw,
		slot, r.ru_nivcsw);
}

void
stats_render(const char *slot, struct buf *out)
{
	uint64_t n;

	buf_printf(out,
		"# HELP twinspool_fuse_requests_total requests from the kernel\n"
		"# TYPE twinspool_fuse_requests_total counter\n");
	/* A kind that never came is left out: there are fifty and most mounts see fifteen. */
	for (uint32_t op = 0; op < OPCODES; op++)
		if (opcode_names[op] != NULL && (n = stats_requests(op)) != 0)
			buf_printf(out,
				"twinspool_fuse_requests_total{slot=\"%s\",kind=\"%s\"}"
				" "
				"%llu\n",
				slot, opcode_names[op], (unsigned long long)n);
	for (int id = 0; id < STATS_IDS; id++)
		buf_printf(out,
			"# HELP twinspool_%s_total %s\n"
			"# TYPE twinspool_%s_total counter\n"
			"twinspool_%s_total{slot=\"%s\"} %llu\n",
			other_names[id], other_help[id], other_names[id],
			other_names[id], slot,
			(unsigned long long)stats_get((enum stats_id)id));
	render_syncs(slot, out);
	render_histograms(slot, out);
	render_usage(slot, out);
}
