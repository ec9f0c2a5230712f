#include "tests/lib/t.h"
#include "meta/base/log.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_TESTS = 400, MAX_EXPECTED = 32 };

static struct {
	const char *name;
	t_fn *fn;
} tests[MAX_TESTS];
static int n_tests;

static _Atomic bool failed;
static char tmpdir[256];
static uint64_t seed, rng;
/* Any thread of a test may write to the log. */
static pthread_mutex_t expected_lock = PTHREAD_MUTEX_INITIALIZER;
static const char *expected[MAX_EXPECTED];
static int n_expected;

void
t_register(const char *name, t_fn *fn)
{
	if (n_tests == MAX_TESTS)
		abort();
	tests[n_tests].name = name;
	tests[n_tests++].fn = fn;
}

void
t_fail(const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	failed = true;
	printf("# %s:%d: ", file, line);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf(" (T_SEED=%llu)\n", (unsigned long long)seed);
}

void
t_expect_log(const char *text)
{
	pthread_mutex_lock(&expected_lock);
	if (n_expected == MAX_EXPECTED)
		abort();
	expected[n_expected++] = text;
	pthread_mutex_unlock(&expected_lock);
}

static void
on_log(enum log_level level, const char *line)
{
	bool announced = false;

	if (level > LOG_LEVEL_WARN)
		return;
	pthread_mutex_lock(&expected_lock);
	for (int i = 0; i < n_expected && !announced; i++) {
		if (expected[i] != NULL && strstr(line, expected[i]) != NULL) {
			expected[i] = NULL;
			announced = true;
		}
	}
	pthread_mutex_unlock(&expected_lock);
	if (!announced)
		t_fail("log", 0, "unexpected line: %s", line);
}

static int
remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)st, (void)kind, (void)ftw;
	return remove(path);
}

const char *
t_tmpdir(void)
{
	if (tmpdir[0] == '\0') {
		const char *base = getenv("TMPDIR");
		snprintf(tmpdir, sizeof(tmpdir), "%s/twinspool-unit.XXXXXX",
			base ? base : "/tmp");
		if (mkdtemp(tmpdir) == NULL)
			abort();
	}
	return tmpdir;
}

unsigned
t_free_port(void)
{
	static unsigned asked;
	struct sockaddr_in sin = { .sin_family = AF_INET };
	unsigned n =
		(unsigned)getpid() * 13 + (unsigned)time(NULL) * 1009 + asked++ * 7919;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	do
		sin.sin_port = htons((uint16_t)(12000 + ++n % 20000));
	while (bind(fd, (struct sockaddr *)&sin, sizeof(sin)) != 0);
	close(fd);
	return ntohs(sin.sin_port);
}

uint64_t
t_limit(uint64_t ms)
{
	const char *slow = getenv("TWINSPOOL_SLOW");

	return slow ? ms * strtoull(slow, NULL, 10) : ms;
}

uint64_t
t_rand(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng;
}

void
t_rand_from(uint64_t point)
{
	/* Neighbours must not be alike: a xorshift begins slowly. */
	rng = (seed ^ (point + 1) * 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u;
	rng ^= rng >> 31;
	rng |= rng == 0;
}

bool
t_failed(void)
{
	return failed;
}

const char *
t_golden(void)
{
	const char *dir = getenv("TWINSPOOL_GOLDEN");

	return dir ? dir : "tests/golden";
}

/* What was announced and did not come fails the test; the next one begins with nothing. */
static void
end_expected(void)
{
	pthread_mutex_lock(&expected_lock);
	for (int e = 0; e < n_expected; e++)
		if (expected[e] != NULL)
			t_fail("log", 0, "expected line never came: %s", expected[e]);
	n_expected = 0;
	pthread_mutex_unlock(&expected_lock);
}

static bool
run_one(int i)
{
	failed = false;
	rng = seed;
	log_set_hook(on_log); /* what one test said of the log holds for it alone */
	log_set_level(LOG_LEVEL_INFO);
	tests[i].fn();
	end_expected();
	if (tmpdir[0] != '\0') {
		nftw(tmpdir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
		tmpdir[0] = '\0';
	}
	return !failed;
}

int
t_main(int argc, char **argv)
{
	const char *s = getenv("T_SEED");
	int bad = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	seed = s ? strtoull(s, NULL, 10) : (uint64_t)time(NULL) * 2654435761u + 1;
	printf("1..%d\n", n_tests);
	for (int i = 0; i < n_tests; i++) {
		if (argc > 1 && strstr(tests[i].name, argv[1]) == NULL) {
			printf("ok %d - %s # SKIP not asked for\n", i + 1,
				tests[i].name);
			continue;
		}
		bool ok = run_one(i);
		bad += !ok;
		printf("%sok %d - %s\n", ok ? "" : "not ", i + 1, tests[i].name);
	}
	return bad != 0;
}
