/*
 * log.h - err, warn, info, debug: what happened, then key=value.
 *
 * Threads  any. Foreground goes to stderr, a daemon to syslog. Errno is kept.
 * Words    mailbox, uid, seq; never mail content, never an address of a correspondent.
 */
#ifndef META_BASE_LOG_H
#define META_BASE_LOG_H

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_ERR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Where lines go: ident is put in front of each; to_syslog as it says. Call before threads. */
void log_open(const char *ident, bool to_syslog, enum log_level level);
void log_set_level(enum log_level level);
bool log_level_on(enum log_level level);

/* For what any request could cause: true at most every ten seconds. said is static, 0 at first. */
bool log_due(_Atomic uint64_t *said);

/* A test may take the lines instead; NULL gives them back. */
typedef void log_hook(enum log_level level, const char *line);
void log_set_hook(log_hook *hook);

void log_err(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_debug(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
