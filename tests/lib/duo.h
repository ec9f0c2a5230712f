/*
 * duo.h - an active node in this process and its standby in another, over TLS on this machine.
 *
 * The standby is this very program: a test's main calls duo_main first. So SIGKILL is real, and what
 * the environment says when duo_start_b is called holds for it alone. Failures of the duo itself
 * abort the test. Mailboxes are rigs on the active's spool, at most DUO_RIGS; a commit is told to
 * the active as capture would. The duo remembers them: each start of the active gives them its
 * spool, and duo_close ends them too.
 */
#ifndef TESTS_LIB_DUO_H
#define TESTS_LIB_DUO_H

#include "meta/base/log.h"
#include "sync/keygen.h"
#include "sync/pos.h"
#include "sync/sync.h"
#include "tests/lib/rig.h"
#include "tests/lib/t.h"

#include <stdbool.h>
#include <sys/types.h>

enum { DUO_RIGS = 4 };
#define DUO_WAIT_MS t_limit(20000)

struct duo {
	char root_a[300], state_a[300], root_b[300], state_b[300];
	char print_a[KEYGEN_PRINT_LEN], print_b[KEYGEN_PRINT_LEN];
	unsigned port;
	struct sync_hooks hooks; /* the active's */
	enum sync_level level; /* of all kinds, from the active's next start on */
	uint64_t journal_size, journal_age; /* of both, from their next start on */
	uint64_t rate; /* of the active */
	unsigned piece; /* the same */
	bool takeover; /* the active's next start is that of a server whose forerunner was killed */
	struct sync_peer_conf peer;
	const char *peer_name; /* the standby's, in the active's configuration */
	struct spool *spool; /* the active's, while it runs */
	struct sync *sync;
	struct rig *rigs[DUO_RIGS];
	unsigned n_rigs;
	pid_t b;
	int b_stdin;
};

/* In the standby's environment: DUO_OLD, it is of a version without any feature. And its replay stops before a file in the folder DUO_SLOW until the
 * file DUO_GO exists. */

/* The standby's life, if that is what the arguments say; else returns. */
void duo_main(int argc, char **argv);

/* Folders and keys in a place of their own; nobody runs. */
void duo_open(struct duo *d);
/* Ends whoever runs, and the rigs. */
void duo_close(struct duo *d);
/* A duo with two mailboxes, box/a (three messages) and box/b (none), the same on both sides. What
 * it logs from here on fails nothing. False: they did not come to be in time. */
bool duo_two(struct duo *d, struct rig *a, struct rig *b);
/* For log_set_hook: trouble is what the test is about. With SIM_DEBUG all of it is printed. */
void duo_log(enum log_level level, const char *line);
/* A start of a in a fork of this program, which that line of the log kills; the hook must call
 * duo_log. */
void duo_killed_at(struct duo *d, const char *line);
void duo_start_a(struct duo *d);
void duo_stop_a(struct duo *d, bool clean);
void duo_start_b(struct duo *d);
/* by_signal: SIGKILL; else it is asked to stop, and must end well. */
void duo_stop_b(struct duo *d, bool by_signal);

/* The new mailbox, created and committed. */
void duo_create(struct duo *d, struct rig *g, const char *dir, const char *id);
/* Commits what was done to the rig and tells the active; untold: only the disk has it. */
void duo_commit(struct duo *d, struct rig *g);
void duo_commit_untold(struct rig *g);
/* The telling alone, to that node (NULL: to nobody); the rig's next commit begins here. */
void duo_tell(struct sync *s, struct rig *g);
/* Unlinks what was expunged, as Cyrus does when it cleans up. */
void duo_cleanup(struct duo *d, struct rig *g);
/* COPY of a message on the active side, links told; not yet committed. */
void duo_copy(struct duo *d, struct rig *to, struct rig *from, uint32_t uid);
/* Expunges it there at once, in two commits as Cyrus does; the cleanup is a later matter. */
void duo_expunge(struct duo *d, struct rig *g, uint32_t uid);
/* Everything is applied on the standby and both say so. False: not in time. */
bool duo_settled(struct duo *d);
/* Waits until what is asked about the active is so, or false after DUO_WAIT_MS. */
bool
duo_until(struct duo *d, bool (*so)(const struct sync_facts *f, void *arg), void *arg);
/* Conditions for duo_until. The standby has set a mailbox aside; it is behind the journal. */
bool duo_says_aside(const struct sync_facts *f, void *arg);
bool duo_says_behind(const struct sync_facts *f, void *arg);
/* Stops both in peace. Every rig's mailbox is the same on both, or the test has failed. */
void duo_stop_equal(struct duo *d);

/* What the standby's state says of it; it must be down. */
struct duo_standby {
	struct pos received, applied;
	uint64_t pending; /* rows that are not applied */
	uint64_t asides;
	char check[64], text[600]; /* of the first that is set aside */
};
struct duo_standby duo_standby(const struct duo *d);
bool duo_exists(const char *root, const char *path);
/* How many bodies are kept there. */
unsigned duo_kept(const char *root);
/* Whether a file with these bytes' SHA-1 is anywhere in that tree: in a mailbox or kept. */
bool duo_has(const char *root, const uint8_t guid[SHA1_LEN]);
/* A peer's entry; the fingerprint as keygen prints it, port 0: it dials us. */
void
duo_peer(struct sync_peer_conf *p, const char *name, const char *print, unsigned port);
/* A shell command that must succeed. */
void duo_sh(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
