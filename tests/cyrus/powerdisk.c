/*
 * powerdisk.c - a disk that remembers in which order it was written and flushed.
 *
 *   powerdisk MOUNTPOINT FOLDER MEGABYTES
 *
 * A FUSE filesystem with two files. `disk` is meant for a loop device with a real filesystem on
 * it: its bytes lie in FOLDER/bytes, and each write and each flush is appended to FOLDER/log. A
 * write to `mark` appends its text to the same log; after the mark "!" every write to the disk
 * fails. From the log tests/lib/power.py makes the disk as
 * a power cut at any moment may leave it: what was flushed is there, what came later may be or
 * may not, in any order.
 *
 * An entry of the log: kind 'W', 'F' or 'M' and 3 bytes of nothing, length (4 bytes), offset (8
 * bytes), in the machine's own order, then the bytes of a write or of a mark.
 *
 * One thread: the order of the log is the order of the answers.
 */
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

enum { DISK = 2, MARK = 3 };

struct entry {
	char kind, nothing[3];
	uint32_t len;
	uint64_t off;
};

static int bytes_fd, log_fd;
static off_t disk_size;
static int broken;

static void
append(char kind, const void *data, size_t len, off_t off)
{
	struct entry e = { .kind = kind, .len = (uint32_t)len, .off = (uint64_t)off };

	if (write(log_fd, &e, sizeof(e)) != (ssize_t)sizeof(e) ||
		(len > 0 && write(log_fd, data, len) != (ssize_t)len)) {
		perror("powerdisk: log");
		exit(1);
	}
}

static int
attributes(fuse_ino_t ino, struct stat *st)
{
	memset(st, 0, sizeof(*st));
	st->st_ino = ino;
	st->st_nlink = 1;
	st->st_mode = ino == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0600;
	st->st_size = ino == DISK ? disk_size : 0;
	return ino <= MARK ? 0 : ENOENT;
}

static void
getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;
	int err = attributes(ino, &st);

	(void)fi;
	if (err != 0)
		fuse_reply_err(req, err);
	else
		fuse_reply_attr(req, &st, 86400);
}

/* Loop devices and O_TRUNC set attributes; the size stays what it is. */
static void
setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st, int to_set,
	struct fuse_file_info *fi)
{
	(void)st, (void)to_set;
	getattr(req, ino, fi);
}

static void
lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param e = { .attr_timeout = 86400, .entry_timeout = 86400 };

	(void)parent;
	e.ino = strcmp(name, "disk") == 0 ? DISK : strcmp(name, "mark") == 0 ? MARK : 0;
	if (e.ino == 0)
		fuse_reply_err(req, ENOENT);
	else if (attributes(e.ino, &e.attr) == 0)
		fuse_reply_entry(req, &e);
}

static void
open_file(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	fi->direct_io = ino == MARK;
	fuse_reply_open(req, fi);
}

static void
read_file(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
	struct fuse_file_info *fi)
{
	char *data = malloc(size);
	ssize_t n = ino == DISK && data != NULL ? pread(bytes_fd, data, size, off) : 0;

	(void)fi;
	if (data == NULL || n < 0)
		fuse_reply_err(req, EIO);
	else
		fuse_reply_buf(req, data, (size_t)n);
	free(data);
}

static void
write_file(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t off,
	struct fuse_file_info *fi)
{
	(void)fi;
	if (ino == MARK) {
		append('M', data, size, 0);
		broken |= size == 1 && *data == '!';
	} else if (broken || off + (off_t)size > disk_size ||
		   pwrite(bytes_fd, data, size, off) != (ssize_t)size) {
		fuse_reply_err(req, EIO);
		return;
	} else {
		append('W', data, size, off);
	}
	fuse_reply_write(req, size);
}

static void
sync_file(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	(void)datasync, (void)fi;
	if (ino == DISK)
		append('F', NULL, 0, 0);
	fuse_reply_err(req, 0);
}

/* Discards and zeroing: the loop device does it by writing. */
static void
no_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
	struct fuse_file_info *fi)
{
	(void)ino, (void)mode, (void)off, (void)len, (void)fi;
	fuse_reply_err(req, EOPNOTSUPP);
}

static const struct fuse_lowlevel_ops table = { .lookup = lookup,
	.getattr = getattr,
	.setattr = setattr,
	.open = open_file,
	.read = read_file,
	.write = write_file,
	.fsync = sync_file,
	.fallocate = no_fallocate };

static int
open_in(const char *folder, const char *name, int flags)
{
	char path[4096];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	fd = open(path, O_CREAT | O_TRUNC | O_CLOEXEC | flags, 0600);
	if (fd < 0) {
		perror(path);
		exit(1);
	}
	return fd;
}

int
main(int argc, char **argv)
{
	char name[] = "powerdisk";
	char *words[] = { name, NULL };
	struct fuse_args args = FUSE_ARGS_INIT(1, words);
	struct fuse_session *se;

	if (argc != 4) {
		fputs("usage: powerdisk MOUNTPOINT FOLDER MEGABYTES\n", stderr);
		return 2;
	}
	disk_size = (off_t)atoi(argv[3]) << 20;
	bytes_fd = open_in(argv[2], "bytes", O_RDWR);
	log_fd = open_in(argv[2], "log", O_WRONLY | O_APPEND);
	if (ftruncate(bytes_fd, disk_size) != 0)
		return 1;
	(void)prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	se = fuse_session_new(&args, &table, sizeof(table), NULL);
	if (se == NULL || fuse_set_signal_handlers(se) != 0 ||
		fuse_session_mount(se, argv[1]) != 0)
		return 1;
	(void)fuse_session_loop(se);
	fuse_session_unmount(se);
	fuse_session_destroy(se);
	return 0;
}
