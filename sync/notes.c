/*
 * How it works. One line a fact, written at the end of the file:
 *
 *   SIGN CRC PATH\n     SIGN +, ! or -, CRC eight hex digits over "SIGN PATH", PATH with bytes up
 *                       to ' ', '%' and DEL as %XX
 *
 * A path is noted from a + or ! until a -; ! if it may be gone by then. In memory each path has a
 * count; only the step from 0 to 1 writes a + or !, the first leaving one a !, and the step from 1
 * to 0 a -, which waits for the next write or notes_flush.
 *
 * Group commit: who finds nobody writing becomes the writer, takes all lines that are waiting,
 * writes and syncs them without the lock, and wakes the others, whose lines may be among them.
 *
 * What a crash leaves behind: a torn last line (cut off at the next open: its caller got no
 * answer), or a note too many, because a - had not been written. Never a note too few. After a
 * failed write or sync nothing is known of the end of the file, so the next writer writes all
 * live notes to a new file and renames it into place; so it does when most lines are dead.
 */
#include "sync/notes.h"
#include "meta/base/buf.h"
#include "meta/base/disk.h"
#include "meta/base/err.h"
#include "meta/base/hash.h"
#include "meta/base/log.h"
#include "meta/base/path.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	COMPACT_MIN = 256 * 1024, /* bytes of file before it is worth it */
	FILE_MAX_READ = 1 << 30,
	BUCKETS_MIN = 64
};

struct note {
	struct note *next;
	uint32_t hash;
	unsigned count; /* 0: gone, but its + may be among the lines being written */
	uint64_t round; /* of its + line */
	bool leaving;
	uint64_t last; /* which of all notes ever made was the last of this path */
	char path[];
};

struct notes {
	pthread_mutex_t lock;
	pthread_cond_t done;
	char folder[4096];
	int fd;
	uint64_t size; /* of the file, all whole lines */
	uint64_t live_bytes; /* of the + lines of live notes */
	struct note **buckets;
	size_t n_buckets, n_notes;
	uint64_t made; /* notes ever, counted */
	struct buf waiting; /* lines not written yet */
	uint64_t round; /* that waiting lines will be written in */
	uint64_t over; /* the last round that ended */
	uint64_t
		good; /* the last that succeeded: all live notes of rounds up to it are on disk */
	int failed_rc; /* of the last that did not */
	bool writing;
	bool broken; /* the file's end is not known: rewrite it */
};

/* ---- lines ---- */

static void
put_line(struct buf *b, char sign, const char *path)
{
	uint32_t crc = hash_crc32(0, &sign, 1);

	crc = hash_crc32(crc, path, strlen(path));
	buf_printf(b, "%c %08x ", sign, crc);
	for (const unsigned char *p = (const unsigned char *)path; *p != '\0'; p++) {
		if (*p <= ' ' || *p == '%' || *p == 0x7f)
			buf_printf(b, "%%%02X", *p);
		else
			buf_put(b, p, 1);
	}
	buf_put(b, "\n", 1);
}

static size_t
line_len(const char *path)
{
	size_t n = 12;

	for (const unsigned char *p = (const unsigned char *)path; *p != '\0'; p++)
		n += *p <= ' ' || *p == '%' || *p == 0x7f ? 3 : 1;
	return n;
}

/* Reads one line without its newline; path_out has NOTES_MAX_PATH bytes. */
static bool
take_line(const char *p, size_t n, char *sign_out, char *path_out)
{
	size_t len = 0;
	uint8_t crc_bytes[4];
	char hex[9];

	if (n < 11 || (p[0] != '+' && p[0] != '!' && p[0] != '-') || p[1] != ' ' ||
		p[10] != ' ')
		return false;
	memcpy(hex, p + 2, 8);
	hex[8] = '\0';
	if (hash_unhex(hex, crc_bytes, 4) != 0)
		return false;
	for (size_t i = 11; i < n; i++) {
		uint8_t c = (uint8_t)p[i];
		if (c == '%') {
			if (n - i < 3)
				return false;
			memcpy(hex, p + i + 1, 2);
			hex[2] = '\0';
			for (int k = 0; k < 2; k++)
				if (hex[k] >= 'A' && hex[k] <= 'F')
					hex[k] = (char)(hex[k] - 'A' + 'a');
			if (hash_unhex(hex, &c, 1) != 0 || c == '\0')
				return false;
			i += 2;
		} else if (c <= ' ' || c == 0x7f) {
			return false;
		}
		if (len == NOTES_MAX_PATH - 1)
			return false;
		path_out[len++] = (char)c;
	}
	path_out[len] = '\0';
	*sign_out = p[0];
	uint32_t want = (uint32_t)crc_bytes[0] << 24 | (uint32_t)crc_bytes[1] << 16 |
			(uint32_t)crc_bytes[2] << 8 | crc_bytes[3];
	return hash_crc32(hash_crc32(0, p, 1), path_out, len) == want;
}

/* ---- the table ---- */

static uint32_t
hash_of(const char *path)
{
	uint32_t h = 2166136261u;

	for (; *path != '\0'; path++)
		h = (h ^ (uint8_t)*path) * 16777619u;
	return h;
}

static struct note **
slot_of(struct notes *n, const char *path, uint32_t hash)
{
	struct note **at = &n->buckets[hash & (n->n_buckets - 1)];

	while (*at != NULL && ((*at)->hash != hash || strcmp((*at)->path, path) != 0))
		at = &(*at)->next;
	return at;
}

/* Twice the buckets; without memory it just stays slower. */
static void
grow(struct notes *n)
{
	size_t to = n->n_buckets * 2;
	struct note **b = calloc(to, sizeof(struct note *));

	if (b == NULL)
		return;
	for (size_t i = 0; i < n->n_buckets; i++) {
		for (struct note *x = n->buckets[i], *next; x != NULL; x = next) {
			next = x->next;
			x->next = b[x->hash & (to - 1)];
			b[x->hash & (to - 1)] = x;
		}
	}
	free(n->buckets);
	n->buckets = b;
	n->n_buckets = to;
}

static struct note *
find_or_make(struct notes *n, const char *path)
{
	uint32_t hash = hash_of(path);
	struct note **at = slot_of(n, path, hash), *x = *at;
	size_t len = strlen(path) + 1;

	if (x != NULL)
		return x;
	if ((x = calloc(1, sizeof(*x) + len)) == NULL)
		return NULL;
	x->hash = hash;
	memcpy(x->path, path, len);
	*at = x;
	if (++n->n_notes > n->n_buckets)
		grow(n);
	return x;
}

static void
forget(struct notes *n, const char *path)
{
	struct note **at = slot_of(n, path, hash_of(path)), *x = *at;

	if (x == NULL)
		return;
	*at = x->next;
	n->n_notes--;
	free(x);
}

/* ---- writing ---- */

static int
code_of(int sys)
{
	return sys == ENOSPC || sys == EDQUOT || sys == EFBIG ? ERR_FULL : ERR_IO;
}

static int
write_all(int fd, const uint8_t *p, size_t n)
{
	while (n > 0) {
		ssize_t w = write(fd, p, n);
		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return code_of(w < 0 ? errno : EIO);
		p += w;
		n -= (size_t)w;
	}
	return 0;
}

static int
sync_folder(const char *folder)
{
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = fd < 0 || disk_sync(fd, DISK_NOTES) != 0 ? ERR_IO : 0;

	if (fd >= 0)
		close(fd);
	return rc;
}

/* A new file with these lines in place of the old one. No lock needed: only the writer does it. */
static int
replace_file(const char *folder, const struct buf *lines, int *fd_out)
{
	char path[4200], temp[4200];
	int rc;

	snprintf(path, sizeof(path), "%s/notes", folder);
	snprintf(temp, sizeof(temp), "%s/notes.new", folder);
	int fd = open(temp,
		O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return code_of(errno);
	if ((rc = write_all(fd, lines->data, lines->len)) == 0 &&
		disk_sync(fd, DISK_NOTES) != 0)
		rc = code_of(errno);
	if (rc == 0 && rename(temp, path) != 0)
		rc = code_of(errno);
	if (rc == 0)
		rc = sync_folder(folder);
	if (rc != 0) {
		unlink(temp);
		close(fd);
		return rc;
	}
	*fd_out = fd;
	return 0;
}

static bool
worth_rewriting(const struct notes *n)
{
	return n->broken || (n->size > COMPACT_MIN && n->size > 4 * n->live_bytes);
}

/* One + for every note that counts, waiting lines included. */
static int
live_lines(struct notes *n, struct buf *out)
{
	for (size_t i = 0; i < n->n_buckets; i++)
		for (struct note *x = n->buckets[i]; x != NULL; x = x->next)
			if (x->count > 0)
				put_line(out, x->leaving ? '!' : '+', x->path);
	return buf_ok(out);
}

/* Carries out one round. Called and returns with the lock held; gives it up meanwhile. */
static void
write_round(struct notes *n)
{
	struct buf lines = n->waiting;
	uint64_t round = n->round++, size = n->size;
	bool rewrite = worth_rewriting(n);
	int fd = n->fd, rc = buf_ok(&lines);

	buf_init(&n->waiting, 0);
	n->writing = true;
	if (rc == 0 && rewrite) {
		buf_clear(&lines);
		rc = live_lines(n, &lines);
	}
	pthread_mutex_unlock(&n->lock);
	if (rc == 0 && rewrite) {
		rc = replace_file(n->folder, &lines, &fd);
	} else if (rc == 0) {
		rc = write_all(fd, lines.data, lines.len);
		if (rc == 0 && disk_datasync(fd, DISK_NOTES) != 0)
			rc = code_of(errno);
		/* give back what a full disk let us write of it */
		if (rc != 0 && ftruncate(fd, (off_t)size) != 0)
			log_warn("notes: cannot cut the file back errno=%d", errno);
	}
	pthread_mutex_lock(&n->lock);
	if (rc == 0 && rewrite) {
		close(n->fd);
		n->fd = fd;
		n->size = lines.len;
		n->broken = false;
	} else if (rc == 0) {
		n->size += lines.len;
	} else {
		log_err("cannot write %s/notes: free space or look at the disk "
			"error=\"%s\"",
			n->folder, err_text(rc));
		n->broken = true;
		n->failed_rc = rc;
	}
	n->over = round;
	if (rc == 0)
		n->good = round;
	n->writing = false;
	pthread_cond_broadcast(&n->done);
	buf_fini(&lines);
}

/* The line of one more note of the path; round is raised to its round. Lock held. */
static int
put_note(struct notes *n, const char *path, bool leaving, uint64_t *round)
{
	struct note *x = find_or_make(n, path);

	if (x == NULL)
		return ERR_NOMEM;
	/* not in the file yet, or the round that was to put it there has failed */
	leaving |= x->leaving;
	if (x->count == 0 || leaving != x->leaving ||
		(x->round <= n->over && x->round > n->good)) {
		x->leaving = leaving;
		put_line(&n->waiting, leaving ? '!' : '+', path);
		n->live_bytes += x->count == 0 ? line_len(path) : 0;
		x->round = n->round;
	}
	x->count++;
	x->last = ++n->made;
	if (x->round > *round)
		*round = x->round;
	return 0;
}

/* Until the round is over. Lock held, given up meanwhile. */
static int
written(struct notes *n, uint64_t round)
{
	while (n->over < round) {
		if (n->writing)
			pthread_cond_wait(&n->done, &n->lock);
		else
			write_round(n);
	}
	/* the round after a failed one writes every note that counts, ours too */
	return n->good < round ? n->failed_rc : 0;
}

static int
add(struct notes *n, const char *path, bool leaving)
{
	uint64_t round = 0;
	bool put;
	int rc;

	if (strlen(path) >= NOTES_MAX_PATH)
		return ERR_LIMIT;
	pthread_mutex_lock(&n->lock);
	rc = put_note(n, path, leaving, &round);
	put = rc == 0;
	if (put)
		rc = written(n, round);
	pthread_mutex_unlock(&n->lock);
	if (rc != 0 && put)
		notes_clear(n, path);
	return rc;
}

int
notes_add(struct notes *n, const char *path)
{
	return add(n, path, false);
}

int
notes_add_leaving(struct notes *n, const char *path)
{
	return add(n, path, true);
}

void
notes_flush(struct notes *n)
{
	pthread_mutex_lock(&n->lock);
	if (n->waiting.len > 0 && !n->writing)
		write_round(n);
	pthread_mutex_unlock(&n->lock);
}

int
notes_copy(struct notes *n, const char *from, const char *to)
{
	struct buf found = BUF_INIT;
	char path[NOTES_MAX_PATH];
	const char *rest;
	uint64_t round = 0;
	int rc;

	pthread_mutex_lock(&n->lock);
	for (size_t i = 0; i < n->n_buckets; i++)
		for (struct note *x = n->buckets[i]; x != NULL; x = x->next)
			if (x->count > 0 && (rest = path_rest(x->path, from)) != NULL &&
				rest[0] == '/') {
				buf_put(&found, x->leaving ? "!" : "+", 1);
				buf_put(&found, rest, strlen(rest) + 1);
			}
	rc = buf_ok(&found);
	for (size_t at = 0; rc == 0 && at < found.len;) {
		bool leaving = found.data[at] == '!';
		rest = (const char *)found.data + at + 1;
		at += strlen(rest) + 2;
		if ((size_t)snprintf(path, sizeof(path), "%s%s", to, rest) >=
			sizeof(path))
			rc = ERR_LIMIT;
		else
			rc = put_note(n, path, leaving, &round);
	}
	if (rc == 0)
		rc = written(n, round);
	pthread_mutex_unlock(&n->lock);
	buf_fini(&found);
	return rc;
}

/* No note of the path counts any more. Lock held. */
static void
strike(struct notes *n, const char *path)
{
	put_line(&n->waiting, '-', path);
	n->live_bytes -= line_len(path);
	forget(n, path);
}

void
notes_clear(struct notes *n, const char *path)
{
	pthread_mutex_lock(&n->lock);
	struct note *x = *slot_of(n, path, hash_of(path));
	if (x != NULL && --x->count == 0)
		strike(n, path);
	pthread_mutex_unlock(&n->lock);
}

void
notes_settle(struct notes *n, const char *path, uint64_t mark)
{
	pthread_mutex_lock(&n->lock);
	struct note *x = *slot_of(n, path, hash_of(path));
	if (x != NULL && x->last <= mark)
		strike(n, path);
	pthread_mutex_unlock(&n->lock);
}

/* ---- open, close, walk ---- */

static int
load_line(struct notes *n, char sign, const char *path)
{
	if (sign == '-') {
		forget(n, path);
		return 0;
	}
	struct note *x = find_or_make(n, path);
	if (x == NULL)
		return ERR_NOMEM;
	x->count = 1;
	x->leaving = sign == '!';
	x->last = ++n->made;
	return 0;
}

/* Takes over what an earlier life left. Lines behind the last newline are a torn end. */
static int
load(struct notes *n, const char *p, size_t len)
{
	char path[NOTES_MAX_PATH], sign;
	size_t at = 0, bad = 0;
	int rc;

	while (at < len) {
		const char *end = memchr(p + at, '\n', len - at);
		if (end == NULL) {
			n->broken = true;
			break;
		}
		size_t line = (size_t)(end - (p + at));
		if (!take_line(p + at, line, &sign, path)) {
			/* the last whole line may be torn too, its blocks out of order */
			bad += at + line + 1 < len;
			n->broken = true;
		} else if ((rc = load_line(n, sign, path)) != 0) {
			return rc;
		}
		at += line + 1;
	}
	for (size_t i = 0; i < n->n_buckets; i++)
		for (struct note *x = n->buckets[i]; x != NULL; x = x->next)
			n->live_bytes += line_len(x->path);
	if (bad > 0)
		log_warn("%s/notes is damaged, lines that cannot be read are left out: "
			 "run twinspool verify lines=%zu",
			n->folder, bad);
	return 0;
}

static int
read_file(struct notes *n)
{
	char path[4200], *data = NULL;
	struct stat st;
	size_t got = 0;
	int rc = 0;

	snprintf(path, sizeof(path), "%s/notes", n->folder);
	n->fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (n->fd < 0 || fstat(n->fd, &st) != 0)
		return code_of(errno);
	if (st.st_size > FILE_MAX_READ)
		return ERR_LIMIT;
	if ((data = malloc((size_t)st.st_size + 1)) == NULL)
		return ERR_NOMEM;
	while (got < (size_t)st.st_size) {
		ssize_t r =
			pread(n->fd, data + got, (size_t)st.st_size - got, (off_t)got);
		if (r <= 0)
			break;
		got += (size_t)r;
	}
	if (got != (size_t)st.st_size)
		rc = ERR_IO;
	else
		rc = load(n, data, got);
	n->size = got;
	free(data);
	return rc;
}

int
notes_open(const char *folder, struct notes **out)
{
	struct notes *n = calloc(1, sizeof(*n));
	int rc = 0;

	*out = NULL;
	if (n == NULL)
		return ERR_NOMEM;
	pthread_mutex_init(&n->lock, NULL);
	pthread_cond_init(&n->done, NULL);
	n->fd = -1;
	n->round = 1;
	n->n_buckets = BUCKETS_MIN;
	n->buckets = calloc(n->n_buckets, sizeof(struct note *));
	if (n->buckets == NULL)
		rc = ERR_NOMEM;
	else if ((size_t)snprintf(n->folder, sizeof(n->folder), "%s", folder) >=
		 sizeof(n->folder))
		rc = ERR_LIMIT;
	else if ((rc = read_file(n)) == 0)
		rc = sync_folder(n->folder);
	if (rc == 0) {
		*out = n;
		n = NULL;
	} else {
		log_err("cannot open %s/notes: look at the state folder's owner, mode "
			"and "
			"disk error=\"%s\"",
			folder, err_text(rc));
	}
	notes_close(n);
	return rc;
}

void
notes_close(struct notes *n)
{
	if (n == NULL)
		return;
	pthread_mutex_lock(&n->lock);
	if (n->fd >= 0 && n->waiting.len > 0)
		write_round(n);
	pthread_mutex_unlock(&n->lock);
	for (size_t i = 0; n->buckets != NULL && i < n->n_buckets; i++) {
		for (struct note *x = n->buckets[i], *next; x != NULL; x = next) {
			next = x->next;
			free(x);
		}
	}
	free(n->buckets);
	buf_fini(&n->waiting);
	if (n->fd >= 0)
		close(n->fd);
	pthread_cond_destroy(&n->done);
	pthread_mutex_destroy(&n->lock);
	free(n);
}

int
notes_walk(struct notes *n, notes_fn *fn, void *arg)
{
	struct buf copy = BUF_INIT;
	int rc;

	pthread_mutex_lock(&n->lock);
	for (size_t i = 0; i < n->n_buckets; i++)
		for (struct note *x = n->buckets[i]; x != NULL; x = x->next)
			buf_put(&copy, x->path, strlen(x->path) + 1);
	pthread_mutex_unlock(&n->lock);
	rc = buf_ok(&copy);
	for (size_t at = 0; rc == 0 && at < copy.len;) {
		const char *path = (const char *)copy.data + at;
		at += strlen(path) + 1;
		rc = fn(arg, path);
	}
	buf_fini(&copy);
	return rc;
}

size_t
notes_count(struct notes *n)
{
	pthread_mutex_lock(&n->lock);
	size_t count = n->n_notes;
	pthread_mutex_unlock(&n->lock);
	return count;
}

bool
notes_is_leaving(struct notes *n, const char *path)
{
	pthread_mutex_lock(&n->lock);
	struct note *x = *slot_of(n, path, hash_of(path));
	bool leaving = x != NULL && x->leaving;
	pthread_mutex_unlock(&n->lock);
	return leaving;
}

uint64_t
notes_mark(struct notes *n, const char *path)
{
	pthread_mutex_lock(&n->lock);
	struct note *x = *slot_of(n, path, hash_of(path));
	uint64_t mark = x != NULL ? x->last : 0;
	pthread_mutex_unlock(&n->lock);
	return mark;
}
