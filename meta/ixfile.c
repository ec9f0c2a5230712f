/*
 * ixfile.c - reads of an open cyrus.index. The search looks at the first word of a record only,
 * the UID in every version; the record that is found is then checked as a whole.
 *
 * UIDs begin at 1 and rise by at least one from record to record, so record i has a UID above i,
 * and two records are no further apart than their UIDs. In a mailbox of which little was expunged
 * that leaves one place to look at, where bisection alone would read ten in a thousand.
 */
#include "meta/ixfile.h"

#include "meta/base/cur.h"
#include "meta/base/err.h"

#include <fcntl.h>
#include <unistd.h>

#define INDEX_MAX_FILE ((size_t)1 << 30)

static int
read_at(int fd, void *p, size_t n, uint64_t offset)
{
	while (n > 0) {
		ssize_t got = pread(fd, p, n, (off_t)offset);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return err_from_errno(errno);
		if (got == 0)
			return ERR_MANGLED;
		p = (uint8_t *)p + got;
		n -= (size_t)got;
		offset += (uint64_t)got;
	}
	return 0;
}

static int
read_head(struct ixfile *f, bool load)
{
	uint8_t head[INDEX_MAX_HEADER];
	int rc;

	if (fstat(f->fd, &f->st) < 0)
		return err_from_errno(errno);
	uint64_t size = (uint64_t)f->st.st_size;
	if (!S_ISREG(f->st.st_mode) || size > INDEX_MAX_FILE)
		return S_ISREG(f->st.st_mode) ? ERR_LIMIT : ERR_MANGLED;
	if (size == 0) /* made, and its first header not yet written */
		return ERR_BUSY;
	if (load) {
		uint8_t *p = buf_room(&f->mem, size + 1);
		rc = p != NULL ? read_at(f->fd, p, size, 0) : ERR_NOMEM;
		if (rc != 0)
			return rc;
		f->mem.len = size;
		f->loaded = true;
		rc = index_header_decode(p, size, &f->h);
	} else {
		size_t n = size < sizeof(head) ? size : sizeof(head);
		rc = read_at(f->fd, head, n, 0);
		if (rc == 0)
			rc = index_header_decode(head, n, &f->h);
	}
	if (rc == 0 && (size - f->h.start_offset) / f->h.record_size < f->h.num_records)
		rc = ERR_MANGLED;
	return rc;
}

int
ixfile_open(struct spool *sp, const char *dir, bool load, struct ixfile *out)
{
	int rc;

	memset(out, 0, sizeof(*out));
	rc = spool_file(sp, dir, "cyrus.index", O_RDONLY | O_NONBLOCK, 0, &out->fd);
	if (rc != 0)
		return rc;
	out->open = true;
	rc = read_head(out, load);
	if (rc != 0)
		ixfile_close(out);
	return rc;
}

int
ixfile_again(struct ixfile *f)
{
	return read_head(f, false);
}

void
ixfile_close(struct ixfile *f)
{
	if (f->open)
		close(f->fd);
	f->open = false;
	buf_fini(&f->mem);
	f->loaded = false;
}

static int
bytes(const struct ixfile *f, uint32_t i, uint8_t *out, size_t n)
{
	uint64_t at = f->h.start_offset + (uint64_t)i * f->h.record_size;

	if (i >= f->h.num_records)
		return ERR_NOTFOUND;
	if (!f->loaded)
		return read_at(f->fd, out, n, at);
	memcpy(out, f->mem.data + at, n);
	return 0;
}

int
ixfile_record(const struct ixfile *f, uint32_t i, struct index_record *out)
{
	uint8_t p[INDEX_MAX_RECORD];
	int rc = bytes(f, i, p, f->h.record_size);

	if (rc != 0) {
		memset(out, 0, sizeof(*out));
		return rc;
	}
	return index_record_decode(f->h.minor_version, p, out);
}

int
ixfile_find(const struct ixfile *f, uint32_t uid, uint32_t *i_out)
{
	uint32_t lo = 0, hi = f->h.num_records;
	uint8_t p[4];

	if (hi > uid)
		hi = uid;
	/* First the last place that it can have. */
	for (uint32_t at = hi > 0 ? hi - 1 : 0; lo < hi; at = lo + (hi - lo) / 2) {
		int rc = bytes(f, at, p, sizeof(p));
		if (rc != 0)
			return rc;
		struct rd rd = rd_over(p, sizeof(p));
		uint32_t have = rd_be32(&rd);
		if (have == uid) {
			*i_out = at;
			return 0;
		}
		if (have < uid) {
			lo = at + 1;
			if (hi - lo > uid - have)
				hi = lo + (uid - have);
		} else {
			hi = at;
			if (at - lo > have - uid)
				lo = at - (have - uid);
		}
	}
	*i_out = lo;
	return ERR_NOTFOUND;
}
