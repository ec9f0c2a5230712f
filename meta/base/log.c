/*
 * log.c - one line, one write: to stderr or to syslog, behind the slot's name.
 */
#include "meta/base/log.h"
#include "meta/base/clock.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#define DUE_MS 10000

static char log_ident[64] = "twinspool";
static bool use_syslog;
static _Atomic int max_level = LOG_LEVEL_INFO;
static log_hook *_Atomic hook;

static const char *const names[] = { "error", "warning", "info", "debug" };
static const int priorities[] = { LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG };

void
log_open(const char *ident, bool to_syslog, enum log_level level)
{
	snprintf(log_ident, sizeof(log_ident), "%s", ident);
	use_syslog = to_syslog;
	max_level = level;
	if (to_syslog)
		openlog(log_ident, LOG_PID, LOG_MAIL);
}

void
log_set_level(enum log_level level)
{
	max_level = level;
}

bool
log_level_on(enum log_level level)
{
	return (int)level <= max_level;
}

void
log_set_hook(log_hook *h)
{
	hook = h;
}

bool
log_due(_Atomic uint64_t *said)
{
	uint64_t last = *said, now = clock_ms();

	return (last == 0 || now - last >= DUE_MS) &&
	       atomic_compare_exchange_strong(said, &last, now);
}

/* One write per line, so that lines of several processes never mix. */
static void
emit(enum log_level level, const char *fmt, va_list ap)
{
	int saved = errno;
	char line[2048], whole[2300];
	struct timespec ts;
	struct tm tm;
	log_hook *h = hook;

	if (!log_level_on(level))
		return;
	vsnprintf(line, sizeof(line), fmt, ap);
	if (h != NULL) {
		h(level, line);
	} else if (use_syslog) {
		syslog(priorities[level], "%s: %s", names[level], line);
	} else {
		clock_gettime(CLOCK_REALTIME, &ts);
		gmtime_r(&ts.tv_sec, &tm);
		int n = snprintf(whole, sizeof(whole),
			"%02d:%02d:%02d.%03ld %s[%d] %s: %s\n", tm.tm_hour, tm.tm_min,
			tm.tm_sec, ts.tv_nsec / 1000000, log_ident, (int)getpid(),
			names[level], line);
		if (n > (int)sizeof(whole) - 1)
			n = (int)sizeof(whole) - 1;
		ssize_t ignored = write(STDERR_FILENO, whole, (size_t)n);
		(void)ignored;
	}
	errno = saved;
}

#define LOG_FUNCTION(name, level) \
	void name(const char *fmt, ...) \
	{ \
		va_list ap; \
		va_start(ap, fmt); \
		emit(level, fmt, ap); \
		va_end(ap); \
	}
LOG_FUNCTION(log_err, LOG_LEVEL_ERR)
LOG_FUNCTION(log_warn, LOG_LEVEL_WARN)
LOG_FUNCTION(log_info, LOG_LEVEL_INFO)
LOG_FUNCTION(log_debug, LOG_LEVEL_DEBUG)
