/*
 * ctl.h - the control socket STATE/control: one request line in, one answer out.
 *
 *   request   NAME [ARGUMENT...]\n            at most CTL_LINE_MAX bytes
 *   answer    ok LENGTH\nBYTES                or
 *             error CODE LENGTH\nBYTES        BYTES say what is wrong, for a person
 *
 * An argument `timeout=MS` bounds the call; other arguments are the command's own. The length
 * tells an answer from one that a dying server cut short.
 *
 * Server  one thread accepts, each call has a thread of its own, so a call may take its time.
 *         At most CTL_CALLS_MAX at once; one more is answered ERR_BUSY.
 * Client  ctl_ask, from any process that may open the socket (mode 0600).
 */
#ifndef FS_CTL_H
#define FS_CTL_H

#include "meta/base/buf.h"

#include <stdbool.h>
#include <stdint.h>

enum { CTL_LINE_MAX = 1024, CTL_CALLS_MAX = 64, CTL_ANSWER_MAX = 64 << 20 };

struct ctl;
struct ctl_call;

/*
 * Answers one call: fills out and returns 0, or fills it with the reason and returns a code.
 * args is what follows the name in the line ("" if nothing), the function may cut it up.
 */
typedef int ctl_fn(void *arg, struct ctl_call *call, char *args, struct buf *out);

/* A control socket without commands, not yet to be seen. 0 or ERR_NOMEM. */
int ctl_new(struct ctl **out);

/* One more command; before ctl_start. name must outlive the socket. 0 or ERR_LIMIT. */
int ctl_add(struct ctl *ctl, const char *name, ctl_fn *fn, void *arg);

/*
 * Makes the socket in the folder state and serves it. A socket that nobody serves any more is
 * replaced; ERR_BUSY if somebody does. Also ERR_IO and the like.
 */
int ctl_start(struct ctl *ctl, const char *state);

/* Ends all calls (their pause says false), removes the socket, frees. NULL is nothing. */
void ctl_stop(struct ctl *ctl);

/*
 * For a command that waits: sleeps up to ms and says whether to go on. False when the client
 * has gone, the call's timeout is over or the server stops; ctl_call_code says which:
 * ERR_TIMEOUT, else ERR_CLOSED.
 */
bool ctl_call_pause(struct ctl_call *call, int ms);
int ctl_call_code(const struct ctl_call *call);
/* Milliseconds left of timeout=, INT64_MAX without one. */
int64_t ctl_call_left(const struct ctl_call *call);

/* The value of name= among args, NULL if absent; args is not changed. Up to size - 1 bytes. */
const char *ctl_arg(const char *args, const char *name, char *out, size_t size);
/* True if the word stands among args. */
bool ctl_arg_flag(const char *args, const char *word);

/*
 * Sends line (without newline) to the slot whose state folder is given, and waits for the whole
 * answer up to timeout_ms (-1: for ever). 0, or the code that the server answered with the
 * reason in out, or ERR_NOTFOUND / ERR_CLOSED (nobody serves), ERR_LINK (cut short),
 * ERR_TIMEOUT, ERR_ACCESS; then out is a reason too.
 */
int ctl_ask(const char *state, const char *line, int timeout_ms, struct buf *out);

#endif
