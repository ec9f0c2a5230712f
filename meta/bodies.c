/*
 * bodies.c - each record whose message is not unlinked, in the order of UIDs: the file under its
 * name is read whole, and its size and SHA-1 are compared with the record.
 */
#include "meta/bodies.h"

#include "meta/base/err.h"
#include "meta/index.h"
#include "meta/mbox.h"
#include "meta/scan.h"
#include "meta/spool.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int
check_one(struct spool *sp, const char *dir, const struct index_record *r)
{
	uint8_t found[SHA1_LEN];
	uint64_t size = 0;
	char name[SCAN_BODY_NAME];
	int fd, rc;

	scan_body_name(r->uid, name);
	if ((rc = spool_file(sp, dir, name, O_RDONLY | O_NOFOLLOW, 0, &fd)) != 0)
		return rc == ERR_NOTFOUND ? ERR_BODY : rc;
	rc = hash_sha1_fd(fd, found, &size);
	close(fd);
	if (rc == 0 && (size != r->size || memcmp(found, r->guid, SHA1_LEN) != 0))
		rc = ERR_BODY;
	return rc;
}

int
bodies_check(struct spool *sp, const char *dir, struct mbox_fault *fault)
{
	struct buf index = BUF_INIT;
	struct index_record r;
	struct index_view v;
	int rc;

	rc = spool_read(sp, dir, "cyrus.index", BUF_MAX_DEFAULT, &index, NULL);
	if (rc == 0)
		rc = index_view_open(&v, index.data, index.len);
	for (uint32_t i = 0; rc == 0 && i < v.header.num_records; i++) {
		rc = index_view_record(&v, i, &r);
		if (rc != 0 ||
			(r.flags & (INDEX_FLAG_UNLINKED | INDEX_FLAG_ARCHIVED)) != 0)
			continue;
		rc = check_one(sp, dir, &r);
		if (rc == ERR_BODY) {
			fault->uid = r.uid;
			snprintf(fault->check, sizeof(fault->check), "guid");
			snprintf(fault->text, sizeof(fault->text),
				"the message is missing or not what its record says");
		}
	}
	buf_fini(&index);
	return rc;
}
