/*
 * test_level.c - what a standby has confirmed as flushed is there after its power failed, with nobody
 * left to ask: the active side is gone by then.
 *
 * The standby writes under the recorder of power.h. It is killed at any moment, its disk loses what
 * was not synced, and it starts alone. LEVEL_ROUNDS: how many at each level (4).
 */
#include "meta/base/clock.h"
#include "meta/base/hash.h"
#include "meta/base/log.h"
#include "meta/index.h"
#include "meta/scan.h"
#include "tests/lib/duo.h"
#include "tests/lib/t.h"
#include "tests/sim/power.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct duo d;
static struct rig A;
static _Atomic uint32_t safe; /* the highest UID that was confirmed */
static char disk[400], powerlog[400];

static void
on_confirmed(void *arg, int code)
{
	uint32_t uid = (uint32_t)(uintptr_t)arg, was = safe;

	while (code == 0 && uid > was &&
		!atomic_compare_exchange_weak(&safe, &was, uid))
		continue;
}

/* The standby's spool and state on a disk of their own. */
static void
set_up(enum sync_level level)
{
	log_set_hook(duo_log);
	duo_sh("rm -rf %s/*", t_tmpdir());
	duo_open(&d);
	d.level = level;
	snprintf(disk, sizeof(disk), "%s/disk", t_tmpdir());
	snprintf(powerlog, sizeof(powerlog), "%s/power.log", t_tmpdir());
	duo_sh("mkdir %s && mv %s %s %s/", disk, d.root_b, d.state_b, disk);
	snprintf(d.root_b, sizeof(d.root_b), "%.250s/b", disk);
	snprintf(d.state_b, sizeof(d.state_b), "%.250s/state-b", disk);
	safe = 0;
}

static void
deliver(size_t size)
{
	uint32_t uid = rig_append(&A, size);

	duo_commit(&d, &A);
	if (!sync_confirm(
		    d.sync, 1u << SYNC_DELIVERY, on_confirmed, (void *)(uintptr_t)uid))
		t_fail(__FILE__, __LINE__, "nothing is waited for");
}

/* A file of the mailbox on the standby. Not by a struct spool: opening one takes away the temporary
 * files of whoever has it open. */
static int
file_of_b(const char *name)
{
	char path[600];

	snprintf(path, sizeof(path), "%s/%s/%s", d.root_b, A.dir, name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static bool
index_of_b(struct buf *out)
{
	uint8_t chunk[8192];
	ssize_t n;
	int fd = file_of_b("cyrus.index");

	while (fd >= 0 && (n = read(fd, chunk, sizeof(chunk))) > 0)
		buf_put(out, chunk, (size_t)n);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

/* Which of the records up to that UID is not there, whole; -1: all are. */
static int
missing(uint32_t upto)
{
	struct buf index = BUF_INIT;
	struct index_view v;
	int lacks =
		index_of_b(&index) && index_view_open(&v, index.data, index.len) == 0
			? -1
			: 0;

	for (uint32_t k = 0; lacks < 0 && k < A.h.num_records; k++) {
		uint8_t found[SHA1_LEN];
		char name[SCAN_BODY_NAME];
		uint32_t at;
		int fd;
		if (A.rec[k].uid > upto)
			break;
		if (index_view_find(&v, A.rec[k].uid, &at) != 0 ||
			(fd = file_of_b(scan_body_name(A.rec[k].uid, name))) < 0) {
			lacks = (int)A.rec[k].uid;
			break;
		}
		if (hash_sha1_fd(fd, found, NULL) != 0 ||
			memcmp(found, A.rec[k].guid, SHA1_LEN) != 0)
			lacks = (int)A.rec[k].uid;
		close(fd);
	}
	buf_fini(&index);
	return lacks;
}

static bool
has_all(uint32_t upto)
{
	uint64_t end = clock_ms() + DUO_WAIT_MS;
	int lacks = 0;

	/* Looked at while the standby replays; it is whole at last. */
	do {
		lacks = missing(upto);
		if (lacks < 0)
			return true;
		usleep(20000);
	} while (clock_ms() < end);
	fprintf(stderr, "# confirmed were %u, missing is %d of %llu bytes\n", upto,
		lacks, lacks > 0 ? (unsigned long long)A.rec[lacks - 1].size : 0ULL);
	if (getenv("SIM_DEBUG") != NULL)
		duo_sh("find %s -type f | xargs ls -la; ls -la %s/*", d.root_b,
			d.state_b);
	return false;
}

static bool
one_round(enum sync_level level)
{
	struct power_facts f;
	unsigned n = 10 + (unsigned)(t_rand() % 60);

	set_up(level);
	struct power *power = power_open(disk, powerlog);
	setenv("POWER_ROOT", disk, 1); /* for the recorder, which is linked into it */
	setenv("POWER_LOG", powerlog, 1);
	duo_start_b(&d);
	unsetenv("POWER_ROOT");
	duo_start_a(&d);
	duo_create(&d, &A, "box/a", "id-a");
	bool ok = duo_settled(&d);
	for (unsigned i = 0; ok && i < n; i++) {
		deliver(t_rand() % 12 == 0 ? 300000 : 100 + (size_t)(t_rand() % 8000));
		if (t_rand() % 3 == 0)
			usleep((useconds_t)(t_rand() % 8000));
	}
	/* Two or three are confirmed at least; the last ones, as it comes. */
	for (unsigned i = 0; ok && safe < 3 && i < 1000; i++)
		usleep(5000);
	duo_stop_b(&d, true);
	uint32_t upto = safe;
	duo_stop_a(&d, false);
	power_cut(power, t_rand() % 2 ? POWER_DROP_ALL : POWER_ANY, t_rand, &f);
	power_close(power);
	duo_start_b(&d);
	ok = ok && upto >= 3 && has_all(upto);
	fprintf(stderr, "# %u of %u confirmed, lost: names=%u writes=%u of %u\n", upto,
		A.h.num_records, f.lost_names, f.lost_writes, f.writes);
	duo_stop_b(&d, true);
	rig_fini(&A);
	return ok;
}

static void
rounds(enum sync_level level)
{
	const char *many = getenv("LEVEL_ROUNDS");

	for (int i = 0; i < (many != NULL ? atoi(many) : 4); i++)
		CHECK(one_round(level));
}

TEST(flushed_survives_a_power_cut)
{
	rounds(SYNC_FLUSHED);
}

/* Confirmed by its ACKs. */
TEST(flushed_survives_at_a_standby_of_an_older_version)
{
	setenv("DUO_OLD", "1", 1);
	rounds(SYNC_FLUSHED);
	unsetenv("DUO_OLD");
}

TEST(applied_survives_a_power_cut)
{
	rounds(SYNC_APPLIED);
}

int
main(int argc, char **argv)
{
	duo_main(argc, argv);
	return t_main(argc, argv);
}
