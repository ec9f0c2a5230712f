/*
 * rig_peer.c - the other side of a rig: applies batches, is compared with it.
 */
#include "tests/lib/rig.h"

#include "meta/base/cur.h"
#include "meta/base/err.h"
#include "meta/fsck.h"
#include "meta/scan.h"
#include "tests/lib/t.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static void
must(int rc, const char *what)
{
	if (rc == 0)
		return;
	fprintf(stderr, "rig: %s: %s\n", what, err_text(rc));
	abort();
}

/* ---- the peer ---- */

static int
take(void *arg, const uint8_t guid[SHA1_LEN], const struct spool_place *to)
{
	struct rig_peer *p = arg;

	return spool_stage_take(p->sp, guid, to);
}

static bool
keep(void *arg, const uint8_t guid[SHA1_LEN])
{
	struct rig_peer *p = arg;

	(void)guid;
	return p->keep;
}

static bool
begin_in_place(void *arg, const char *dir, const char *name, int fd)
{
	struct rig_peer *p = arg;

	(void)dir, (void)name, (void)fd;
	p->held += p->in_place;
	return p->in_place;
}

static void
end_in_place(void *arg, const char *dir, const char *name, int fd)
{
	struct rig_peer *p = arg;

	(void)dir, (void)name, (void)fd;
	p->held--;
}

/* The last one first: none may need another. */
static void
spread(void *arg, void (*fn)(void *, size_t), void *fn_arg, size_t n)
{
	struct rig_peer *p = arg;

	p->spread++;
	while (n-- > 0)
		fn(fn_arg, n);
}

void
rig_peer_init(struct rig_peer *p, struct spool *sp, struct spool *from)
{
	memset(p, 0, sizeof(*p));
	p->sp = sp;
	p->from = from;
	p->in_place = true;
	p->env = (struct mbox_env){ p, take, NULL, keep, begin_in_place, end_in_place,
		spread };
}

/* The body from wherever the sender has it: the mailbox, else its kept ones. */
static int
fetch(struct rig_peer *p, const struct batch *b, const struct mbox_need *need)
{
	char name[SCAN_BODY_NAME], hex[2 * SHA1_LEN + 1];
	struct spool_stage *st;
	struct buf body = BUF_INIT;
	int rc;

	if (need->uid != 0)
		rc = spool_read(p->from, b->dir, scan_body_name(need->uid, name),
			1u << 20, &body, NULL);
	else
		rc = spool_read(p->from, "", need->path, 1u << 20, &body, NULL);
	if (rc == ERR_NOTFOUND) {
		hash_hex(need->guid, SHA1_LEN, hex);
		rc = spool_read(p->from, ".twinspool/kept", hex, 1u << 20, &body, NULL);
	}
	if (rc == 0)
		rc = spool_stage_open(p->sp, need->guid, need->size, &st);
	if (rc == 0) {
		rc = spool_stage_write(st, body.data, body.len);
		if (rc == 0)
			rc = spool_stage_done(st, false);
		else
			spool_stage_abort(st);
	}
	buf_fini(&body);
	p->fetched++;
	return rc;
}

int
rig_apply(struct rig_peer *p, const struct batch *b, enum mbox_apply_mode mode)
{
	struct mbox_need need;
	int rc;

	for (;;) {
		memset(&need, 0, sizeof(need));
		memset(&p->fault, 0, sizeof(p->fault));
		if (b->dir[0] == '\0')
			rc = mbox_apply_path(p->sp, b, &p->env, &need, &p->fault);
		else
			rc = mbox_apply(
				p->sp, b, mode, &p->env, &p->state, &need, &p->fault);
		if (p->held != 0)
			must(ERR_BUSY, "begin_in_place without end_in_place");
		if (rc != ERR_NEED)
			return rc;
		rc = fetch(p, b, &need);
		if (rc != 0)
			return rc;
	}
}

/* ---- comparison ---- */

static bool
same_file(struct spool *a, const char *dir_a, struct spool *b, const char *dir_b,
	const char *name)
{
	struct buf x = BUF_INIT, y = BUF_INIT;
	struct stat st, su;
	bool same = spool_read(a, dir_a, name, 1u << 20, &x, &st) == 0 &&
		    spool_read(b, dir_b, name, 1u << 20, &y, &su) == 0 &&
		    x.len == y.len && memcmp(x.data, y.data, x.len) == 0 &&
		    st.st_uid == su.st_uid && st.st_gid == su.st_gid &&
		    st.st_mode == su.st_mode;

	buf_fini(&x);
	buf_fini(&y);
	return same;
}

static bool
same_cache(struct spool *sp, const char *dir, const struct index_record *r)
{
	struct buf file = BUF_INIT;
	bool same = r->cache_crc == 0 ||
		    (spool_read(sp, dir, "cyrus.cache", 1u << 26, &file, NULL) == 0 &&
			    r->cache_offset >= 4 && r->cache_offset < file.len);
	size_t at = (size_t)r->cache_offset, n = 0;

	for (int i = 0; same && r->cache_crc != 0 && i < 10; i++) {
		if (at + n + 4 > file.len) {
			same = false;
			break;
		}
		struct rd rd = rd_over(file.data + at + n, 4);
		n += 4 + (rd_be32(&rd) + 3) / 4 * 4;
	}
	if (same && r->cache_crc != 0)
		same = at + n <= file.len &&
		       hash_crc32(0, file.data + at, n) == r->cache_crc;
	buf_fini(&file);
	return same;
}

/* What the sum leaves out is each side's own. */
static const char *
differ_in(struct index_record *r, struct index_record *s)
{
	static char text[300];
	struct buf what = BUF_INIT;

	r->flags &= ~INDEX_FLAG_NEEDS_CLEANUP;
	s->flags &= ~INDEX_FLAG_NEEDS_CLEANUP;
	uint64_t mask = change_record_diff(r, s);
	if (r->uid == s->uid && mask == 0)
		return NULL;
	change_record_print(s, mask, &what);
	snprintf(text, sizeof(text), "UID %u, the second has UID %u and%s", r->uid,
		s->uid, buf_str(&what));
	buf_fini(&what);
	return text;
}

static const char *
differ(struct scan *x, struct scan *y, struct spool *a, const char *dir_a,
	struct spool *b, const char *dir_b)
{
	static char text[100];
	struct index_record r, s;
	const char *wrong;
	char name[SCAN_BODY_NAME];
	struct stat st;

	if (x->ix.h.num_records != y->ix.h.num_records)
		return "number of records";
	if (change_header_diff(&x->ix.h, &y->ix.h) != 0)
		return "header";
	/* As Cyrus does: 0 on the peer's side is unknown. */
	if (x->ix.h.sync_basic != y->ix.h.sync_basic && y->ix.h.sync_basic != 0)
		return "sync_basic";
	if (x->ix.h.sync_annot != y->ix.h.sync_annot && y->ix.h.sync_annot != 0)
		return "sync_annot";
	if (x->ix.h.header_file_crc != y->ix.h.header_file_crc)
		return "header_file_crc";
	if (!sum_eq(mbox_sum_total(&x->sum), mbox_sum_total(&y->sum)))
		return "sum";
	if (memcmp(&x->owner, &y->owner, sizeof(x->owner)) != 0 &&
		x->ix.h.num_records > 0)
		return "owner";
	for (uint32_t i = 0; i < x->ix.h.num_records; i++) {
		if (ixfile_record(&x->ix, i, &r) != 0 ||
			ixfile_record(&y->ix, i, &s) != 0)
			return "a record is damaged";
		if ((wrong = differ_in(&r, &s)) != NULL)
			return wrong;
		snprintf(text, sizeof(text), "body of UID %u", r.uid);
		scan_body_name(r.uid, name);
		if (r.flags & INDEX_FLAG_UNLINKED) {
			if (spool_stat(b, dir_b, name, &st) == 0)
				return text;
		} else if (!same_file(a, dir_a, b, dir_b, name)) {
			return text;
		}
		snprintf(text, sizeof(text), "cache of UID %u", r.uid);
		if (!same_cache(a, dir_a, &r) || !same_cache(b, dir_b, &s) ||
			(r.cache_crc != s.cache_crc && s.cache_crc != 0))
			return text;
	}
	return NULL;
}

/* The invariants of F9, by a reader of its own. */
static void
note_finding(void *arg, const struct fsck_finding *f)
{
	char *text = arg;

	/* Odd files do not travel with a mailbox, and between unlinking and repack annotations
	 * outlive their message on both sides. */
	if (text[0] == '\0' && strcmp(f->check, "odd-file") != 0 &&
		strcmp(f->check, "annot-uid") != 0)
		snprintf(text, 300, "fsck: UID %u: %s: %s", f->uid, f->check, f->text);
}

static const char *
fsck(struct spool *sp, const char *dir, bool times)
{
	static char text[300];
	const struct fsck_options options = { .bodies = true, .times = times };
	struct fsck_counts counts = { .mailboxes = 0 };

	text[0] = '\0';
	must(fsck_mailbox(
		     spool_root_fd(sp), dir, &options, note_finding, text, &counts),
		"fsck_mailbox");
	return text[0] != '\0' ? text : NULL;
}

const char *
rig_differ(struct spool *a, const char *dir_a, struct spool *b, const char *dir_b)
{
	struct mbox_fault fault = { .uid = 0 };
	struct scan x, y;
	const char *wrong;
	static char text[300];

	if (scan_open(a, dir_a, SCAN_STRICT, NULL, &x, &fault) != 0)
		return "the first cannot be read";
	if (scan_open(b, dir_b, SCAN_STRICT, NULL, &y, &fault) != 0) {
		scan_close(&x);
		snprintf(text, sizeof(text), "the second cannot be read: %s",
			fault.text);
		return text;
	}
	wrong = differ(&x, &y, a, dir_a, b, dir_b);
	if (wrong == NULL)
		wrong = scan_tally_check(&y.tally, &y.ix.h);
	if (wrong == NULL)
		wrong = fsck(a, dir_a, false);
	if (wrong == NULL)
		wrong = fsck(b, dir_b, true);
	scan_close(&x);
	scan_close(&y);
	return wrong;
}

/* ---- both sides ---- */

struct rig_pair *
rig_pair_open(uint32_t minor)
{
	struct rig_pair *x = calloc(1, sizeof(*x));
	static unsigned number;

	for (int side = 0; side < 2; side++) {
		snprintf(x->root[side], sizeof(x->root[side]), "%s/%u%c", t_tmpdir(),
			number, 'a' + side);
		if (mkdir(x->root[side], 0755) != 0)
			abort();
		must(spool_open(x->root[side], side == 0 ? &x->a : &x->b), "spool");
	}
	number++;
	rig_init(&x->g, x->a, "user/rig/box", "abcdefgh", minor);
	rig_peer_init(&x->p, x->b, x->a);
	batch_init(&x->batch);
	return x;
}

void
rig_pair_close(struct rig_pair *x)
{
	batch_fini(&x->batch);
	buf_fini(&x->raw);
	rig_fini(&x->g);
	spool_close(x->a);
	spool_close(x->b);
	free(x);
}

int
rig_step(struct rig_pair *x, enum mbox_apply_mode mode)
{
	batch_fini(&x->batch);
	int rc = rig_delta(&x->g, &x->raw, &x->batch);
	if (rc == ERR_NOTFOUND)
		return 0;
	if (rc == 0)
		rc = rig_apply(&x->p, &x->batch, mode);
	if (rc != 0)
		printf("# %s: %s: %s\n", err_text(rc), x->p.fault.check,
			x->p.fault.text);
	return rc;
}

/* nftw has no argument for these. A body may have several names below the tree: names of inodes
 * seen so far, for links. */
static struct copying {
	const char *from, *to;
	struct seen {
		ino_t ino;
		char at[600];
	} seen[200];
	size_t n_seen;
} copying;

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
	(void)st;
	(void)type;
	(void)f;
	return remove(path);
}

static int
copy_file(const char *path, const struct stat *st, const char *at)
{
	struct timespec times[2] = { st->st_atim, st->st_mtim };
	struct seen *s = copying.seen;

	for (size_t i = 0; st->st_nlink > 1 && i < copying.n_seen; i++)
		if (s[i].ino == st->st_ino)
			return link(s[i].at, at);
	if (st->st_nlink > 1) {
		if (copying.n_seen == sizeof(copying.seen) / sizeof(copying.seen[0]))
			return -1;
		s[copying.n_seen].ino = st->st_ino;
		snprintf(s[copying.n_seen++].at, sizeof(s->at), "%s", at);
	}
	int in = open(path, O_RDONLY | O_CLOEXEC);
	int out = open(at, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	off_t left = st->st_size;
	while (left > 0) {
		ssize_t n = copy_file_range(in, NULL, out, NULL, (size_t)left, 0);
		if (n <= 0)
			break;
		left -= n;
	}
	int rc = fchown(out, st->st_uid, st->st_gid) < 0 ||
				 fchmod(out, st->st_mode & 07777) < 0 ||
				 futimens(out, times) < 0 || left > 0
			 ? -1
			 : 0;
	close(in);
	close(out);
	return rc;
}

static int
copy_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
	char at[600], target[600];

	(void)f;
	snprintf(at, sizeof(at), "%s%s", copying.to, path + strlen(copying.from));
	if (type == FTW_SL) {
		ssize_t n = readlink(path, target, sizeof(target) - 1);
		target[n > 0 ? n : 0] = '\0';
		return symlink(target, at);
	}
	if (type != FTW_D)
		return copy_file(path, st, at);
	return mkdir(at, 0700) < 0 || chown(at, st->st_uid, st->st_gid) < 0 ||
			       chmod(at, st->st_mode & 07777) < 0
		       ? -1
		       : 0;
}

/* Hundreds of times in a test: as cp -a, without its processes. The times of folders are not kept. */
static void
copy_tree(const char *from, const char *to)
{
	if (nftw(to, remove_one, 16, FTW_DEPTH | FTW_PHYS) != 0 && errno != ENOENT)
		must(ERR_IO, to);
	copying = (struct copying){ .from = from, .to = to };
	must(nftw(from, copy_one, 16, FTW_PHYS) == 0 ? 0 : ERR_IO, from);
}

void
rig_save(struct rig_pair *x, const char *to)
{
	copy_tree(x->root[1], to);
}

void
rig_restart(struct rig_pair *x)
{
	spool_close(x->b);
	must(spool_open(x->root[1], &x->b), "spool");
	spool_sweep(x->b);
	x->p.sp = x->b;
	x->p.held = 0;
	memset(&x->p.state, 0, sizeof(x->p.state));
}

void
rig_restore(struct rig_pair *x, const char *from)
{
	copy_tree(from, x->root[1]);
	rig_restart(x);
}
