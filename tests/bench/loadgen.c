/*
 * loadgen.c - the clients of scripts/bench: cheap, so that they do not blur what is measured.
 *
 *	loadgen lmtp|append|store|fetch|select KEY=VALUE...
 *	loadgen list DIR
 *
 *	port=N      on 127.0.0.1
 *	users=A,B   one connection for each, served by a thread of its own; a user given twice has two
 *	count=N     operations in all, the same share for each connection
 *	pool=FILE   messages, each a line with its length, then its bytes; "@@@@@@@@@@" in one is
 *	            replaced by a number of ten digits, so that no two are the same
 *	first=N     the first such number
 *	rate=N      operations a second, started by the clock and not by the last answer
 *	box=NAME    what is appended to or selected (INBOX)
 *	uids=N      messages 1..N are stored to or fetched, in turn
 *	sign=+|-    store: set or clear
 *	flag=NAME   that flag
 *
 * All connections log in (as cyrus for that user) and select; then it prints "ready" and waits for
 * a line on its standard input before the clock starts. Of LMTP's commands MAIL, RCPT and DATA go
 * out together, as Postfix sends them; messages to IMAP go as literals that wait for no answer.
 * Prints one line of JSON: operations, seconds, seconds of processor time used here, and quantiles
 * of the time of one operation in microseconds.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CONNS_MAX 64
#define BUF (512 * 1024)
#define MARK "@@@@@@@@@@"
#define PASSWORD "x"

struct message {
	char *text;
	size_t len;
	char *mark;
};

struct conn {
	pthread_t thread;
	int fd;
	unsigned number;
	const char *user;
	unsigned tag;
	size_t used;
	char buf[BUF];
	char *out;
};

static struct {
	int port;
	unsigned conns;
	uint64_t count, first;
	double rate;
	unsigned uids;
	const char *kind, *pool, *box, *sign, *flag;
	struct message *messages;
	size_t n_messages, longest;
} g = { .count = 1, .uids = 1, .box = "INBOX", .sign = "+", .flag = "\\Flagged" };

static struct conn *conns[CONNS_MAX];
static uint32_t *spent;
static uint64_t begun;
static pthread_barrier_t gate;

static void
die(const char *what, const char *detail)
{
	fprintf(stderr, "loadgen %s: %s: %s\n", g.kind, what, detail);
	exit(1);
}

static uint64_t
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- messages ---- */

static void
read_pool(void)
{
	FILE *f = fopen(g.pool, "rb");
	unsigned len;

	if (f == NULL)
		die(g.pool, strerror(errno));
	while (fscanf(f, "%u", &len) == 1 && fgetc(f) == '\n') {
		struct message *m;

		g.messages = realloc(g.messages, (g.n_messages + 1) * sizeof(*m));
		m = &g.messages[g.n_messages++];
		m->text = malloc(len + 1);
		m->len = len;
		if (fread(m->text, 1, len, f) != len)
			die(g.pool, "ends in a message");
		m->text[len] = '\0';
		m->mark = strstr(m->text, MARK);
		if (m->mark == NULL)
			die(g.pool, "a message without a mark");
		if (len > g.longest)
			g.longest = len;
	}
	fclose(f);
	if (g.n_messages == 0)
		die(g.pool, "no message");
}

/* Message number n behind at; its length. */
static size_t
put_message(char *at, uint64_t n)
{
	const struct message *m = &g.messages[n % g.n_messages];
	char digits[24];

	memcpy(at, m->text, m->len);
	snprintf(digits, sizeof(digits), "%010llu",
		(unsigned long long)((g.first + n) % 10000000000u));
	memcpy(at + (m->mark - m->text), digits, 10);
	return m->len;
}

/* ---- the line ---- */

static void
say(struct conn *c, const char *text, size_t len)
{
	while (len > 0) {
		ssize_t n = send(c->fd, text, len, MSG_NOSIGNAL);

		if (n <= 0)
			die("connection lost", strerror(errno));
		text += n;
		len -= (size_t)n;
	}
}

static void
hear(struct conn *c)
{
	ssize_t n;

	if (c->used == BUF) {
		/* An answer's end is all that counts. */
		memmove(c->buf, c->buf + BUF - 4096, 4096);
		c->used = 4096;
	}
	n = recv(c->fd, c->buf + c->used, BUF - c->used, 0);
	if (n <= 0)
		die("connection lost", n == 0 ? "closed" : strerror(errno));
	c->used += (size_t)n;
}

/* Reads that many replies of LMTP and checks that they begin with these digits. */
static void
lmtp_replies(struct conn *c, const char *const *codes, unsigned count)
{
	size_t at = 0;

	c->used = 0;
	while (count > 0) {
		char *end = memchr(c->buf + at, '\n', c->used - at);

		if (end == NULL) {
			hear(c);
			continue;
		}
		*end = '\0';
		if (strncmp(c->buf + at, *codes, 3) != 0)
			die("unexpected answer", c->buf + at);
		if (c->buf[at + 3] != '-') {
			codes++;
			count--;
		}
		at = (size_t)(end + 1 - c->buf);
	}
}

/* Reads until the answer to our last tag, which must be OK. */
static void
imap_answer(struct conn *c)
{
	char tag[16];
	int len = snprintf(tag, sizeof(tag), "t%u ", c->tag);

	c->used = 0;
	for (;;) {
		char *line;

		hear(c);
		if (c->used < 2 || c->buf[c->used - 1] != '\n')
			continue;
		line = memrchr(c->buf, '\n', c->used - 1);
		line = line == NULL ? c->buf : line + 1;
		if (strncmp(line, tag, (size_t)len) != 0)
			continue;
		c->buf[c->used - 1] = '\0';
		if (strncmp(line + len, "OK", 2) != 0)
			die("unexpected answer", line);
		return;
	}
}

static void
imap_say(struct conn *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void
imap_say(struct conn *c, const char *format, ...)
{
	char line[512];
	int n = snprintf(line, sizeof(line), "t%u ", ++c->tag);
	va_list args;

	va_start(args, format);
	n += vsnprintf(line + n, sizeof(line) - (size_t)n, format, args);
	va_end(args);
	say(c, line, (size_t)n);
	imap_answer(c);
}

static void
base64(const unsigned char *in, size_t len, char *out)
{
	static const char set[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	for (size_t i = 0; i < len; i += 3) {
		unsigned v = (unsigned)in[i] << 16;

		v |= i + 1 < len ? (unsigned)in[i + 1] << 8 : 0;
		v |= i + 2 < len ? (unsigned)in[i + 2] : 0;
		*out++ = set[v >> 18];
		*out++ = set[v >> 12 & 63];
		*out++ = i + 1 < len ? set[v >> 6 & 63] : '=';
		*out++ = i + 2 < len ? set[v & 63] : '=';
	}
	*out = '\0';
}

static bool
is(const char *kind)
{
	return strcmp(g.kind, kind) == 0;
}

static void
log_in(struct conn *c)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
		.sin_port = htons((uint16_t)g.port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	static const char *const greeting[] = { "220" }, *const hello[] = { "250" };
	unsigned char plain[256];
	char coded[352];
	int one = 1, len;

	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof(to)) != 0)
		die("connect", strerror(errno));
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (is("lmtp")) {
		lmtp_replies(c, greeting, 1);
		say(c, "LHLO bench\r\n", 12);
		lmtp_replies(c, hello, 1);
		return;
	}
	hear(c);
	len = snprintf(
		(char *)plain, sizeof(plain), "%s%ccyrus%c" PASSWORD, c->user, 0, 0);
	base64(plain, (size_t)len, coded);
	imap_say(c, "AUTHENTICATE PLAIN %s\r\n", coded);
	if (is("store") || is("fetch"))
		imap_say(c, "SELECT %s\r\n", g.box);
}

/* ---- one operation ---- */

static void
one_lmtp(struct conn *c, uint64_t n)
{
	static const char *const go[] = { "250", "250", "354" }, *const done[] = {
		"250"
	};
	size_t len = (size_t)sprintf(
		c->out, "MAIL FROM:<>\r\nRCPT TO:<%s>\r\nDATA\r\n", c->user);

	say(c, c->out, len);
	lmtp_replies(c, go, 3);
	len = put_message(c->out, n);
	memcpy(c->out + len, ".\r\n", 3);
	say(c, c->out, len + 3);
	lmtp_replies(c, done, 1);
}

static void
one_append(struct conn *c, uint64_t n)
{
	size_t size = g.messages[n % g.n_messages].len;
	size_t len = (size_t)sprintf(
		c->out, "t%u APPEND %s {%zu+}\r\n", ++c->tag, g.box, size);

	len += put_message(c->out + len, n);
	memcpy(c->out + len, "\r\n", 2);
	say(c, c->out, len + 2);
	imap_answer(c);
}

static void
one(struct conn *c, uint64_t n)
{
	unsigned uid = (unsigned)(n / g.conns % g.uids) + 1;

	if (is("lmtp")) {
		one_lmtp(c, n);
	} else if (is("append")) {
		one_append(c, n);
	} else if (is("store")) {
		imap_say(
			c, "UID STORE %u %sFLAGS.SILENT (%s)\r\n", uid, g.sign, g.flag);
	} else if (is("fetch")) {
		imap_say(c, "UID FETCH %u (BODY.PEEK[])\r\n", uid);
		if (c->used < 500)
			die("fetch", "too short an answer");
	} else {
		imap_say(c, "SELECT %s\r\n", g.box);
	}
}

static void
sleep_until(uint64_t ns)
{
	struct timespec t = { .tv_sec = (time_t)(ns / 1000000000u),
		.tv_nsec = (long)(ns % 1000000000u) };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

static void *
work(void *arg)
{
	struct conn *c = arg;

	log_in(c);
	pthread_barrier_wait(&gate);
	/* main takes the time */
	pthread_barrier_wait(&gate);
	/* A fixed share for each, so that every run does the same to each mailbox. */
	for (uint64_t n = c->number; n < g.count; n += g.conns) {
		uint64_t start = now_ns();

		if (g.rate > 0) {
			uint64_t due = begun + (uint64_t)((double)n / g.rate * 1e9);

			if (start < due)
				sleep_until(due);
			/* What waits for its turn is late: that counts. */
			start = due;
		}
		one(c, n);
		spent[n] = (uint32_t)((now_ns() - start) / 1000);
	}
	return NULL;
}

static int
compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static double
cpu(void)
{
	struct rusage r;

	getrusage(RUSAGE_SELF, &r);
	return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) +
	       (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

static void
run(void)
{
	double before, seconds, used;

	spent = calloc(g.count + 1, sizeof(*spent));
	pthread_barrier_init(&gate, NULL, g.conns + 1);
	for (unsigned i = 0; i < g.conns; i++)
		if (pthread_create(&conns[i]->thread, NULL, work, conns[i]) != 0)
			die("thread", strerror(errno));
	pthread_barrier_wait(&gate);
	puts("ready");
	fflush(stdout);
	(void)getchar();
	before = cpu();
	begun = now_ns();
	pthread_barrier_wait(&gate);
	for (unsigned i = 0; i < g.conns; i++)
		pthread_join(conns[i]->thread, NULL);
	seconds = (double)(now_ns() - begun) / 1e9;
	used = cpu() - before;
	qsort(spent, g.count, sizeof(*spent), compare);
	printf("{\"ops\":%llu,\"seconds\":%.6f,\"client_cpu\":%.6f,\"us_50\":%u,"
	       "\"us_90\":%u,\"us_99\":%u,\"us_max\":%u}\n",
		(unsigned long long)g.count, seconds, used, spent[g.count / 2],
		spent[g.count * 9 / 10], spent[g.count * 99 / 100], spent[g.count - 1]);
	/* The servers see a closed connection; nobody waits for their good-bye. */
}

static void
list(const char *path)
{
	uint64_t start = now_ns(), names = 0, bytes = 0;
	DIR *d = opendir(path);
	struct dirent *e;
	struct stat st;

	if (d == NULL)
		die(path, strerror(errno));
	while ((e = readdir(d)) != NULL) {
		if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0)
			die(e->d_name, strerror(errno));
		names++;
		bytes += (uint64_t)st.st_size;
	}
	closedir(d);
	printf("{\"ops\":%llu,\"bytes\":%llu,\"seconds\":%.6f,\"client_cpu\":%.6f}\n",
		(unsigned long long)names, (unsigned long long)bytes,
		(double)(now_ns() - start) / 1e9, cpu());
}

/* ---- arguments ---- */

static void
set(const char *key, char *value)
{
	if (strcmp(key, "port") == 0) {
		g.port = atoi(value);
	} else if (strcmp(key, "count") == 0) {
		g.count = strtoull(value, NULL, 10);
	} else if (strcmp(key, "first") == 0) {
		g.first = strtoull(value, NULL, 10);
	} else if (strcmp(key, "rate") == 0) {
		g.rate = atof(value);
	} else if (strcmp(key, "uids") == 0) {
		g.uids = (unsigned)atoi(value);
	} else if (strcmp(key, "pool") == 0) {
		g.pool = value;
	} else if (strcmp(key, "box") == 0) {
		g.box = value;
	} else if (strcmp(key, "sign") == 0) {
		g.sign = value;
	} else if (strcmp(key, "flag") == 0) {
		g.flag = value;
	} else if (strcmp(key, "users") == 0) {
		for (char *u = strtok(value, ","); u != NULL; u = strtok(NULL, ",")) {
			if (g.conns == CONNS_MAX)
				die("users", "too many");
			conns[g.conns] = calloc(1, sizeof(struct conn));
			conns[g.conns]->number = g.conns;
			conns[g.conns++]->user = u;
		}
	} else {
		die("unknown key", key);
	}
}

int
main(int argc, char **argv)
{
	if (argc < 3) {
		fprintf(stderr, "usage: loadgen KIND KEY=VALUE... | list DIR\n");
		return 2;
	}
	g.kind = argv[1];
	if (is("list")) {
		list(argv[2]);
		return 0;
	}
	for (int i = 2; i < argc; i++) {
		char *value = strchr(argv[i], '=');

		if (value == NULL)
			die("no value", argv[i]);
		*value++ = '\0';
		set(argv[i], value);
	}
	if (g.conns == 0 || g.count == 0 || g.uids == 0)
		die("needs", "users, count and uids above 0");
	if (g.pool != NULL)
		read_pool();
	else if (is("lmtp") || is("append"))
		die("needs", "pool");
	for (unsigned i = 0; i < g.conns; i++)
		conns[i]->out = malloc(g.longest + 1024);
	run();
	return 0;
}
