/*
 * apply.c - a mailbox batch onto the disk: plan, bodies, write, read back, unlink.
 *
 * Up to the first write after the bodies the mailbox is as it was; a message that no record
 * names yet is not visible (F17). From then on a failure leaves what a crash there would, and
 * the caller redoes the batch.
 */
#include "meta/apply.h"

#include "meta/base/err.h"
#include "meta/base/fault.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- removal ---- */

/* The GUID that the index gives for "<uid>.". */
static bool
guid_of(const struct ixfile *ix, const char *name, uint8_t guid[SHA1_LEN])
{
	struct index_record r;
	uint32_t at;
	unsigned long uid = strtoul(name, NULL, 10);

	if (!ix->open || uid == 0 || uid > UINT32_MAX ||
		ixfile_find(ix, (uint32_t)uid, &at) != 0 ||
		ixfile_record(ix, at, &r) != 0)
		return false;
	memcpy(guid, r.guid, SHA1_LEN);
	return true;
}

static int
remove_file(struct spool *sp, const struct batch *b, const char *name)
{
	int rc = spool_unlink(sp, b->dir, name);

	return rc == ERR_NOTFOUND ? 0 : rc;
}

/* The files of the mailbox but those that say what it is: the index goes last but one, so that
 * a removal that was cut off still knows the GUIDs of what is left. */
static int
remove_bodies(struct spool *sp, const struct batch *b, const struct mbox_env *env,
	const struct ixfile *ix)
{
	uint8_t guid[SHA1_LEN];
	struct dirent *e;
	int fd, rc;

	rc = spool_file(sp, b->dir, NULL, O_RDONLY | O_DIRECTORY, 0, &fd);
	if (rc != 0)
		return rc;
	DIR *d = fdopendir(fd);
	if (d == NULL) {
		close(fd);
		return ERR_NOMEM;
	}
	while (rc == 0 && (e = readdir(d)) != NULL) {
		if (!spool_name_is_mbox(e->d_name) ||
			strcmp(e->d_name, "cyrus.index") == 0 ||
			strcmp(e->d_name, "cyrus.header") == 0)
			continue;
		if (guid_of(ix, e->d_name, guid) && env->keep_body != NULL &&
			env->keep_body(env->arg, guid))
			rc = spool_keep(sp, guid, b->dir, e->d_name);
		FAULT("apply.remove");
		if (rc == 0)
			rc = remove_file(sp, b, e->d_name);
	}
	closedir(d);
	return rc;
}

static int
apply_remove(struct spool *sp, const struct batch *b, enum mbox_apply_mode mode,
	const struct mbox_env *env, struct mbox_state *state, struct mbox_fault *fault)
{
	struct ixfile ix = { .open = false };
	struct scan_names names;
	struct stat st;
	int rc;

	if (mode == MBOX_CHECK && (b->flags & BATCH_DERIVED) == 0 &&
		state->header.minor_version != 0 &&
		!sum_eq(mbox_sum_total(&state->sum), b->before))
		return scan_fault(fault, ERR_DIVERGED, 0, "diverged",
			"the sum before does not match; compare it");
	rc = spool_stat(sp, b->dir, NULL, &st);
	if (rc == ERR_NOTFOUND)
		goto gone;
	if (rc != 0)
		return rc;
	/* Another mailbox may have this name by now. */
	rc = scan_names_load(sp, b->dir, &names);
	bool other = rc == 0 && b->uniqueid[0] != '\0' && names.h.uniqueid[0] != '\0' &&
		     strcmp(names.h.uniqueid, b->uniqueid) != 0;
	scan_names_close(&names);
	if (rc == ERR_NOMEM || rc == ERR_IO)
		return rc;
	if (other)
		return scan_fault(fault, ERR_DIVERGED, 0, "uniqueid",
			"the mailbox to be removed is another one; compare it");
	(void)ixfile_open(sp, b->dir, false, &ix);
	rc = remove_bodies(sp, b, env, &ix);
	if (rc == 0)
		rc = remove_file(sp, b, "cyrus.index");
	if (rc == 0)
		rc = remove_file(sp, b, "cyrus.header");
	ixfile_close(&ix);
	if (rc != 0)
		return rc;
	/* Other mailboxes may live below, and odd files are not ours to delete. */
	rc = spool_rmdir(sp, b->dir);
	if (rc != 0 && rc != ERR_EXISTS && rc != ERR_NOTFOUND)
		return rc;
gone:
	memset(state, 0, sizeof(*state));
	return 0;
}

/* ---- all else ---- */

int
mbox_apply(struct spool *sp, const struct batch *b, enum mbox_apply_mode mode,
	const struct mbox_env *env, struct mbox_state *state,
	struct mbox_need *need_out, struct mbox_fault *fault)
{
	struct apply a = { .sp = sp,
		.b = b,
		.mode = mode,
		.env = env,
		.state = state,
		.need = need_out,
		.fault = fault };
	int rc;

	if (b->dir[0] == '\0')
		return ERR_USAGE;
	if (b->flags & BATCH_REMOVE)
		return apply_remove(sp, b, mode, env, state, fault);
	/* Done already, unless it is about what no sum has: NEEDS_*, or messages that are
	 * stated again because they are missing here. */
	if (mode == MBOX_CHECK && state->header.minor_version != 0 &&
		(b->flags & (BATCH_PARTIAL | BATCH_DERIVED | BATCH_WHOLE)) == 0 &&
		sum_eq(mbox_sum_total(&state->sum), b->after) &&
		!sum_eq(b->before, b->after))
		return 0;
	rc = apply_plan(&a);
	if (rc == 0)
		rc = apply_bodies(&a);
	if (rc == 0)
		rc = apply_write(&a);
	if (rc == 0)
		rc = apply_verify(&a);
	if (rc == 0)
		rc = apply_unlinks(&a);
	if (rc == 0 && (a.damaged || (mode == MBOX_REDO && apply_overrides(b))))
		rc = apply_strays(&a);
	if (rc == 0 && !a.sum_ok)
		rc = scan_fault(fault, ERR_SUM, 0, "sum",
			"the sum after does not match; compare it");
	apply_fini(&a);
	return rc;
}
