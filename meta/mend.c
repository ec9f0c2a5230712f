/*
 * mend.c - a power cut keeps any of the writes since the last sync, in pieces of a sector.
 *
 * The header is in the first sector, so it is one that was written, but perhaps for records that
 * were not. A record that was changed where it lies may be half old and half new: it has its
 * UID and GUID still, and what the two halves differ in is stated by the batches that come. One
 * that was being added may be missing in part or in whole, and the batch that added it comes again.
 * So records are kept as long as their UIDs rise, whatever their sums say, and the file ends there.
 */
#include "meta/mend.h"

#include "meta/base/disk.h"
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "meta/index.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

enum { MEND_MAX = 1 << 30 };

/* How many records from the first on may stay; those whose sum is wrong get a right one. */
static uint32_t
mend_records(const struct index_header *h, uint8_t *p, size_t n, bool *torn)
{
	struct index_record r;
	uint32_t i, last = 0;

	for (i = 0; i < h->num_records; i++) {
		size_t at = h->start_offset + (size_t)i * h->record_size;
		if (at + h->record_size > n)
			break;
		int rc = index_record_decode(h->minor_version, p + at, &r);
		if ((rc != 0 && rc != ERR_CHECKSUM) || r.uid <= last)
			break;
		if (rc == ERR_CHECKSUM) {
			if (index_record_encode(h->minor_version, &r, p + at) != 0)
				break;
			*torn = true;
		}
		last = r.uid;
	}
	return i;
}

static int
mend_bytes(struct buf *bytes, size_t *keep_out)
{
	struct index_header h;
	bool torn = false;
	int rc = index_header_decode(bytes->data, bytes->len, &h);

	if (rc != 0)
		return rc;
	uint32_t had = h.num_records;
	h.num_records = mend_records(&h, bytes->data, bytes->len, &torn);
	if (h.num_records == had && !torn)
		return ERR_EXISTS;
	*keep_out = h.start_offset + (size_t)h.num_records * h.record_size;
	return index_header_encode(&h, bytes->data);
}

int
mend_index(struct spool *sp, const char *dir)
{
	struct buf bytes = BUF_INIT;
	size_t keep = 0;
	struct stat st;
	int fd, rc;

	if ((rc = spool_stat(sp, dir, "cyrus.index", &st)) != 0)
		return rc;
	rc = spool_read(sp, dir, "cyrus.index", MEND_MAX, &bytes, NULL);
	if (rc == 0)
		rc = mend_bytes(&bytes, &keep);
	if (rc == 0)
		rc = spool_replace(sp, dir, "cyrus.index", bytes.data, keep, st.st_mode,
			st.st_uid, st.st_gid);
	if (rc == 0 &&
		(rc = spool_file(sp, dir, "cyrus.index", O_RDONLY, 0, &fd)) == 0) {
		if (disk_sync(fd, DISK_INDEX) < 0)
			rc = err_from_errno(errno);
		close(fd);
	}
	if (rc == 0)
		log_info("an index that a power cut left torn is read as far as it "
			 "goes: "
			 "dir=%s bytes=%zu of %zu",
			dir, keep, bytes.len);
	buf_fini(&bytes);
	return rc;
}
