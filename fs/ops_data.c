/*
 * ops_data.c - requests for the bytes of a file.
 *
 * A WRITE done twice puts the same bytes at the same place, and the kernel keeps the file locked
 * until the answer, so nothing here needs a note; what was answered is never done again.
 */
#include "fs/ops.h"

#include "fs/capture.h"
#include "fs/cred.h"
#include "fs/ops_vdir.h"
#include "fs/slot.h"
#include "fs/stats.h"
#include "meta/base/clock.h"
#include "meta/base/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define LOOK_MS 1000
#define NEAR_BYTES (64 << 20) /* more than all threads can have under way */

static int
file_open(
	fuse_ino_t nodeid, enum inode_fd_mode mode, struct inode **ino_out, int *fd_out)
{
	*fd_out = -1;
	*ino_out = inode_get(nodeid);
	return *ino_out == NULL ? ops_vdir_errno(nodeid)
				: inode_fd(*ino_out, mode, fd_out);
}

static void
file_close(struct inode *ino, int fd)
{
	if (ino != NULL)
		inode_fd_put(ino, fd);
}

/*
 * Whether so many bytes may come to the space that is kept for root. It is looked at once a second, and
 * before a quarter of what was left has been written; others write to that filesystem, too.
 */
static bool
near_reserve(size_t size)
{
	static _Atomic int64_t room;
	static _Atomic uint64_t at;
	uint64_t now = clock_ms();
	struct statvfs sv;

	if (now - at < LOOK_MS && size < INT64_MAX &&
		atomic_fetch_sub(&room, (int64_t)size) > (int64_t)size)
		return false;
	if (fstatvfs(inode_root_fd(), &sv) != 0)
		return true;
	uint64_t left = (uint64_t)sv.f_bavail * sv.f_frsize;
	bool near = left < NEAR_BYTES || left - NEAR_BYTES < size;
	at = now;
	room = near ? 0 : (int64_t)(left / 4);
	return near;
}

/* Before what takes so much space: root's reserve is not everybody's. Twice as dear as a small write
 * itself, so only where it matters. */
static void
as_caller(fuse_req_t req, size_t size)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	if (ctx->uid != 0 && near_reserve(size))
		cred_enter(ctx->uid, ctx->gid, 0);
}

void
ops_data_read(fuse_req_t req, fuse_ino_t nodeid, size_t size, off_t off,
	struct fuse_file_info *fi)
{
	struct inode *ino;
	size_t room, got = 0;
	char *data = slot_room(&room);
	int fd, err;

	(void)fi;
	if (ops_vdir_read(req, nodeid, size, off))
		return;
	err = file_open(nodeid, INODE_READ, &ino, &fd);
	if (err == 0 &&
		size > room) /* never less than asked: that would mean the end */
		err = EINVAL;
	while (err == 0 && got < size) {
		ssize_t n = pread(fd, data + got, size - got, off + (off_t)got);

		if (n < 0 && errno != EINTR)
			err = errno;
		if (n == 0)
			break;
		if (n > 0)
			got += (size_t)n;
	}
	file_close(ino, fd);
	if (err != 0)
		fuse_reply_err(req, err);
	else {
		stats_add(STATS_READ_BYTES, got);
		fuse_reply_buf(req, data, got);
	}
}

void
ops_data_write(fuse_req_t req, fuse_ino_t nodeid, const char *data, size_t size,
	off_t off, struct fuse_file_info *fi)
{
	struct inode *ino;
	size_t put = 0;
	int fd, err = file_open(nodeid, INODE_WRITE, &ino, &fd);

	(void)fi;
	if (err == 0)
		err = capture_write_begin(ino, fd, off, size);
	if (err != 0)
		goto out;
	FAULT("write.begun");
	as_caller(req, size);
	while (put < size) {
		ssize_t n = pwrite(fd, data + put, size - put, off + (off_t)put);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			err = n < 0 ? errno : EIO;
			break;
		}
		put += (size_t)n;
	}
	cred_leave();
	if (put > 0)
		err = 0;
	stats_add(STATS_WRITE_BYTES, put);
	FAULT("write.done");
	capture_write_end(ino, fd);
out:
	file_close(ino, fd);
	if (err != 0)
		fuse_reply_err(req, err);
	else
		fuse_reply_write(req, put);
}

/* The peers have it; or none ever will, and then nobody may be told that it is safe. */
static void
confirmed(void *arg, int code)
{
	fuse_reply_err(arg, code == 0 ? 0 : EIO);
}

void
ops_data_fsync(
	fuse_req_t req, fuse_ino_t nodeid, int datasync, struct fuse_file_info *fi)
{
	struct inode *ino;
	unsigned kinds = 0;
	int fd, err = file_open(nodeid, INODE_ANY, &ino, &fd);

	(void)fi;
	slot_wait_begin();
	if (err == 0)
		err = capture_fsync(ino, fd, datasync != 0, &kinds);
	slot_wait_end();
	file_close(ino, fd);
	/* No thread waits for the peers, and no slot: whoever hears of them answers. */
	if (err == 0 && capture_waits(kinds))
		slot_park();
	if (err != 0 || !capture_confirm(kinds, confirmed, req))
		fuse_reply_err(req, err);
}

void
ops_data_fallocate(fuse_req_t req, fuse_ino_t nodeid, int mode, off_t off, off_t len,
	struct fuse_file_info *fi)
{
	struct inode *ino;
	int fd, err = file_open(nodeid, INODE_WRITE, &ino, &fd);

	(void)fi;
	if (err == 0)
		err = capture_write_begin(ino, fd, off, (size_t)len);
	if (err == 0) {
		as_caller(req, (size_t)len);
		if (fallocate(fd, mode, off, len) != 0)
			err = errno;
		cred_leave();
		capture_write_end(ino, fd);
	}
	file_close(ino, fd);
	fuse_reply_err(req, err);
}

void
ops_data_copy(fuse_req_t req, fuse_ino_t in, off_t in_off, struct fuse_file_info *in_fi,
	fuse_ino_t out, off_t out_off, struct fuse_file_info *out_fi, size_t len,
	int flags)
{
	struct inode *from, *to = NULL;
	off_t to_off = out_off;
	ssize_t n = 0;
	int in_fd, out_fd = -1, err = file_open(in, INODE_READ, &from, &in_fd);

	(void)in_fi;
	(void)out_fi;
	if (err == 0)
		err = file_open(out, INODE_WRITE, &to, &out_fd);
	if (err == 0)
		err = capture_write_begin(to, out_fd, out_off, len);
	if (err == 0) {
		as_caller(req, len);
		n = copy_file_range(
			in_fd, &in_off, out_fd, &to_off, len, (unsigned)flags);
		if (n < 0)
			err = errno;
		cred_leave();
		capture_write_end(to, out_fd);
	}
	file_close(from, in_fd);
	file_close(to, out_fd);
	if (err != 0)
		fuse_reply_err(req, err);
	else
		fuse_reply_write(req, (size_t)n);
}

void
ops_data_lseek(fuse_req_t req, fuse_ino_t nodeid, off_t off, int whence,
	struct fuse_file_info *fi)
{
	struct inode *ino;
	off_t at = -1;
	int fd, err;

	(void)fi;
	if (ops_vdir_lseek(req, nodeid, off, whence))
		return;
	err = file_open(nodeid, INODE_READ, &ino, &fd);
	if (err == 0) {
		at = lseek(fd, off, whence);
		if (at < 0)
			err = errno;
	}
	file_close(ino, fd);
	if (err != 0)
		fuse_reply_err(req, err);
	else
		fuse_reply_lseek(req, at);
}
