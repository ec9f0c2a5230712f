/*
 * fuzz_apply.c - any batch onto a small mailbox. One that is refused in its plan leaves the
 * mailbox byte for byte; one that is taken leaves a mailbox that can be read. The sum after is
 * made not to count (PARTIAL), or nothing would ever get that far.
 */
#include "meta/base/err.h"
#include "meta/mbox.h"
#include "meta/scan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DIR "m"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static struct spool *sp;
static char root[] = "/tmp/fuzz-apply-XXXXXX";
static uint8_t index_bytes[160 + 3 * 112];
static struct buf names;

static void
must(int rc)
{
	if (rc != 0) {
		fprintf(stderr, "fuzz_apply: %s\n", err_text(rc));
		abort();
	}
}

static void
cleanup(void)
{
	char cmd[100];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", root);
	if (system(cmd) != 0)
		fprintf(stderr, "fuzz_apply: %s stays\n", root);
}

static void
setup(void)
{
	struct index_header h = { .minor_version = 17,
		.num_records = 3,
		.last_uid = 3,
		.uidvalidity = 1,
		.highestmodseq = 9,
		.exists = 3,
		.unseen = 3,
		.quota_mailbox_used = 15 };
	static char type[] = "e", name[] = "user.f", id[] = "abc", who[] = "f",
		    rights[] = "lrs";
	struct header_acl acl = { who, rights };
	struct header hd = {
		.type = type, .name = name, .uniqueid = id, .acl = &acl, .n_acl = 1
	};

	if (mkdtemp(root) == NULL)
		abort();
	atexit(cleanup);
	must(spool_open(root, &sp));
	must(spool_mkdirs(sp, DIR, 0700, 0, 0));
	must(header_encode(&hd, &names));
	h.header_file_crc = hash_crc32(0, names.data, names.len);
	must(index_header_encode(&h, index_bytes));
	for (uint32_t i = 0; i < 3; i++) {
		struct index_record r = { .uid = i + 1, .size = 5, .modseq = i + 1 };
		r.guid[0] = (uint8_t)(i + 1);
		must(index_record_encode(17, &r, index_bytes + 160 + i * 112));
	}
}

static void
reset(void)
{
	char name[SCAN_BODY_NAME];

	must(spool_mkdirs(sp, DIR, 0700, 0, 0));
	must(spool_replace(
		sp, DIR, "cyrus.index", index_bytes, sizeof(index_bytes), 0600, 0, 0));
	must(spool_replace(sp, DIR, "cyrus.header", names.data, names.len, 0600, 0, 0));
	(void)spool_unlink(sp, DIR, "cyrus.annotations");
	(void)spool_unlink(sp, DIR, "cyrus.cache");
	for (uint32_t uid = 1; uid <= 3; uid++)
		must(spool_replace(
			sp, DIR, scan_body_name(uid, name), "hello", 5, 0600, 0, 0));
}

static int
take(void *arg, const uint8_t guid[SHA1_LEN], const struct spool_place *to)
{
	(void)arg;
	(void)guid;
	return spool_make(sp, to, "x", 1);
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	const struct mbox_env env = { .take_body = take };
	struct mbox_fault fault = { .uid = 0 };
	struct mbox_need need;
	struct mbox_state state;
	struct batch b;

	if (sp == NULL)
		setup();
	if (n < 1 || batch_decode(p + 1, n - 1, &b) != 0)
		return 0;
	if (b.dir[0] == '\0') {
		batch_fini(&b);
		return 0;
	}
	reset();
	must(mbox_load(sp, DIR, NULL, &state, &fault));
	b.dir = DIR;
	b.flags |= BATCH_PARTIAL;
	if (p[0] & 2)
		b.flags |= BATCH_DERIVED;
	b.before = mbox_sum_total(&state.sum);
	spool_changes(sp);
	int rc = mbox_apply(
		sp, &b, p[0] & 1 ? MBOX_REDO : MBOX_CHECK, &env, &state, &need, &fault);
	long changes = spool_changes(sp);
	if ((rc == ERR_DIVERGED || rc == ERR_CHECKSUM || rc == ERR_VERSION) &&
		(b.flags & BATCH_REMOVE) == 0 && changes != 0)
		abort();
	if (rc == 0 && (b.flags & BATCH_REMOVE) == 0) {
		struct scan s;
		must(scan_open(sp, DIR, SCAN_LENIENT, NULL, &s, &fault));
		if (s.holes != 0 ||
			!sum_eq(mbox_sum_total(&s.sum), mbox_sum_total(&state.sum)))
			abort();
		scan_close(&s);
	}
	batch_fini(&b);
	return 0;
}
