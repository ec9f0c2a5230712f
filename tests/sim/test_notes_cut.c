/*
 * test_notes_cut.c - the power of an active side is cut: what its journal has not synced is gone,
 * and a note that was taken back for it would be missed.
 *
 * fsync and fdatasync are this program's own. Whatever of the journal's files they sync is copied,
 * and that copy is what a cut leaves. Of the notes a cut leaves all that was written, which is the
 * worst: also the lines that take notes back.
 */
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "sync/notes.h"
#include "tests/lib/duo.h"
#include "tests/lib/t.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct duo d;
static struct rig A, B;

static char synced[320]; /* the folder of the copies */
static _Atomic bool recording; /* the node's threads look at that folder's name */
static _Atomic unsigned wal_syncs;
static _Atomic bool wal_fails;

static void
copy(int fd, const char *to)
{
	uint8_t p[65536];
	off_t at = 0;
	ssize_t n;
	int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (out < 0)
		abort();
	while ((n = pread(fd, p, sizeof(p), at)) > 0) {
		if (write(out, p, (size_t)n) != n)
			abort();
		at += n;
	}
	close(out);
}

static int
remember(int fd)
{
	char link[40], path[600], to[800];

	if (!recording)
		return 0;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, path, sizeof(path) - 1);
	if (n <= 0)
		return 0;
	path[n] = '\0';
	const char *name = strrchr(path, '/');
	if (name == NULL || strncmp(path, d.state_a, strlen(d.state_a)) != 0 ||
		strncmp(name, "/journal.db", 11) != 0)
		return 0;
	if (wal_fails)
		return -1;
	wal_syncs++;
	snprintf(to, sizeof(to), "%s%s", synced, name);
	int from = open(path, O_RDONLY | O_CLOEXEC);
	if (from < 0)
		abort();
	copy(from, to);
	close(from);
	return 0;
}

int
fsync(int fd)
{
	return remember(fd) != 0 ? -1 : (int)syscall(SYS_fsync, fd);
}

int
fdatasync(int fd)
{
	return remember(fd) != 0 ? -1 : (int)syscall(SYS_fdatasync, fd);
}

/* A pair with one mailbox; from here on it is recorded what the journal has on disk. */
static bool
begin(void)
{
	log_set_hook(duo_log);
	wal_fails = false;
	recording = false;
	duo_open(&d);
	duo_start_b(&d);
	duo_start_a(&d);
	duo_create(&d, &A, "box/a", "id-a");
	if (!duo_settled(&d))
		return false;
	duo_sh("mkdir -p %s.synced && cp %s/journal.db* %s.synced", d.state_a,
		d.state_a, d.state_a);
	snprintf(synced, sizeof(synced), "%s.synced", d.state_a);
	wal_syncs = 0;
	recording = true;
	return true;
}

static void
power_cut(void)
{
	duo_sh("cp %s/notes %s.notes", d.state_a, d.state_a);
	recording = false; /* what an end of the process syncs comes too late */
	duo_stop_a(&d, false);
	duo_sh("rm %s/journal.db* && cp %s.synced/* %s && cp %s.notes %s/notes",
		d.state_a, d.state_a, d.state_a, d.state_a, d.state_a);
}

static void
put_file(const char *name, const char *text)
{
	char path[700];

	snprintf(path, sizeof(path), "%s/%s", d.root_a, name);
	if (sync_note(d.sync, name, 0) != 0)
		abort();
	FILE *f = fopen(path, "we");
	if (f == NULL || fputs(text, f) < 0 || fclose(f) != 0)
		abort();
	sync_path(d.sync, name, 0, NULL, NULL);
}

static unsigned
notes_left(const char *state)
{
	struct notes *n;

	if (notes_open(state, &n) != 0)
		abort();
	unsigned count = (unsigned)notes_count(n);
	notes_close(n);
	return count;
}

static void
a_cut(bool journal_syncs)
{
	static struct sync_facts f;

	CHECK(begin());
	wal_fails = !journal_syncs;
	duo_create(&d, &B, "box/b", "id-b");
	put_file("box/file", "one");
	rig_append(&B, 300);
	duo_commit(&d, &B);
	CHECK(duo_settled(&d));
	/* time for any clearing, and another note, with which what was cleared is written */
	usleep(2500000);
	if (journal_syncs)
		CHECK(wal_syncs >= 1 && wal_syncs <= 4);
	put_file("box/other", "two");
	CHECK(duo_settled(&d));
	power_cut();
	CHECK(notes_left(d.state_a) > 0);
	duo_start_a(&d);
	CHECK(duo_settled(&d));
	/* who meets an unknown mailbox says so here */
	CHECK_EQ(sync_prove(d.sync, DUO_WAIT_MS, NULL, NULL, NULL), 0);
	sync_facts(d.sync, &f);
	CHECK(strstr(f.peers[0].error, "aside") == NULL);
	duo_stop_equal(&d);
	duo_sh("cmp %s/box/file %s/box/file", d.root_a, d.root_b);
	/* a clean stop has taken all of them back, if the journal is known to be on disk */
	CHECK_EQ(notes_left(d.state_a), 0);
	duo_close(&d);
}

TEST(what_was_noted_and_journaled_survives_a_cut)
{
	a_cut(true);
}

TEST(also_where_the_journal_never_reached_the_disk)
{
	a_cut(false);
}

/* Deliveries note nothing, and sync nothing of the journal. */
TEST(a_delivery_syncs_nothing_of_the_journal)
{
	CHECK(begin());
	usleep(2500000);
	wal_syncs = 0;
	for (int i = 0; i < 50; i++) {
		rig_append(&A, 300);
		duo_commit(&d, &A);
	}
	CHECK(duo_settled(&d));
	usleep(1500000);
	CHECK_EQ(wal_syncs, 0);
	/* a hundred files, made one after the other: a sync now and then, not one each */
	uint64_t began = clock_ms();
	for (int i = 0; i < 100; i++) {
		char name[40];
		snprintf(name, sizeof(name), "box/f%d", i);
		put_file(name, name);
	}
	CHECK(duo_settled(&d));
	usleep(1500000);
	CHECK(wal_syncs >= 1);
	CHECK(wal_syncs <= 2 + (clock_ms() - began) / 1000);
	duo_close(&d);
}

/* ---- absence is never read as deletion ---- */

static bool
says_missing(const struct sync_facts *f, void *arg)
{
	return f->n_quarantined == 1 && strcmp(f->quarantined[0].dir, arg) == 0 &&
	       strcmp(f->quarantined[0].check, "missing") == 0;
}

static bool
says_sound(const struct sync_facts *f, void *arg)
{
	(void)arg;
	return f->n_quarantined == 0;
}

/* The crash takes box/a, of which that was noted: its messages stay on the peer. It is put back,
 * and flows again. */
static void
lost_in_a_crash(int (*note)(struct sync *s, const char *path, uint64_t names))
{
	CHECK(begin());
	for (int i = 0; i < 3; i++)
		rig_append(&A, 300);
	duo_commit(&d, &A);
	CHECK(duo_settled(&d));
	if (note != NULL)
		CHECK_EQ(note(d.sync, "box/a", 0), 0);
	duo_stop_a(&d, false);
	duo_sh("mv %s/box/a %s.lost", d.root_a, d.state_a);
	duo_start_a(&d);
	CHECK(duo_until(&d, says_missing, (void *)"box/a"));
	CHECK(duo_settled(&d));
	CHECK(duo_exists(d.root_b, "box/a/1.") && duo_exists(d.root_b, "box/a/3."));
	duo_sh("mv %s.lost %s/box/a", d.state_a, d.root_a);
	rig_append(&A, 300);
	duo_commit(&d, &A);
	CHECK(duo_until(&d, says_sound, NULL));
	CHECK(duo_settled(&d));
	CHECK(duo_exists(d.root_b, "box/a/4."));
	duo_stop_equal(&d);
	duo_close(&d);
}

TEST(a_mailbox_lost_in_a_crash_keeps_its_mail_on_the_peer)
{
	lost_in_a_crash(NULL);
}

TEST(also_if_something_else_was_noted_of_it)
{
	lost_in_a_crash(sync_note);
}

TEST(one_that_was_being_removed_is_removed)
{
	CHECK(begin());
	CHECK_EQ(sync_note_leaving(d.sync, "box/a", 0), 0);
	duo_sh("rm -r %s/box/a", d.root_a);
	duo_stop_a(&d, false);
	duo_start_a(&d);
	CHECK(duo_settled(&d));
	CHECK(!duo_exists(d.root_b, "box/a/cyrus.index"));
	duo_close(&d);
}

/* A file that was noted and written, and nobody told of it. */
TEST(a_file_that_changed_before_the_crash_travels)
{
	CHECK(begin());
	put_file("box/file", "first");
	CHECK(duo_settled(&d));
	CHECK_EQ(sync_note(d.sync, "box/file", 0), 0);
	duo_sh("echo second >> %s/box/file", d.root_a);
	duo_stop_a(&d, false);
	duo_start_a(&d);
	CHECK(duo_settled(&d));
	duo_sh("cmp %s/box/file %s/box/file", d.root_a, d.root_b);
	duo_close(&d);
}

/* Cyrus died with us behind an annotation and before the index header. The index is old, and as
 * it was journaled. */
TEST(an_annotation_that_no_index_confirms_travels_after_a_crash)
{
	CHECK(begin());
	uint32_t uid = rig_append(&A, 300);
	rig_annotate(&A, uid, "/comment", "first");
	rig_commit(&A);
	duo_sh("touch -d '1 hour ago' %s/box/a/cyrus.*", d.root_a);
	duo_tell(d.sync, &A);
	CHECK(duo_settled(&d));
	duo_sh("cp -p %s/box/a/cyrus.index %s.index", d.root_a, d.state_a);
	rig_annotate(&A, uid, "/comment", "second");
	duo_stop_a(&d, false);
	duo_sh("cat %s.index > %s/box/a/cyrus.index", d.state_a, d.root_a);
	duo_sh("touch -r %s.index %s/box/a/cyrus.index", d.state_a, d.root_a);
	duo_start_a(&d);
	CHECK(duo_settled(&d));
	duo_sh("grep -q second %s/box/a/cyrus.annotations", d.root_b);
	/* and nothing is set aside when the message goes */
	rig_expunge(&A, uid);
	duo_commit(&d, &A);
	rig_unlink(&A, uid);
	duo_commit(&d, &A);
	CHECK(duo_settled(&d));
	CHECK_EQ(sync_prove(d.sync, DUO_WAIT_MS, NULL, NULL, NULL), 0);
	duo_stop_equal(&d);
	CHECK_EQ(duo_standby(&d).asides, 0);
	duo_close(&d);
}

/* What was taken back is so on disk soon, with no other note to carry it. */
TEST(a_quiet_mount_leaves_no_notes)
{
	char look[sizeof(d.state_a) + sizeof(".look")];
	unsigned left = 1;

	CHECK(begin());
	snprintf(look, sizeof(look), "%s.look", d.state_a);
	for (uint64_t end = clock_ms() + DUO_WAIT_MS; left > 0 && clock_ms() < end;) {
		usleep(100000);
		duo_sh("mkdir -p %s && cp %s/notes %s", look, d.state_a, look);
		left = notes_left(look);
	}
	CHECK_EQ(left, 0);
	duo_close(&d);
}

int
main(int argc, char **argv)
{
	duo_main(argc, argv);
	return t_main(argc, argv);
}
