/*
 * How it works: a key is a row of conf_keys (name, type, where the value goes, default, limits,
 * help) and a type is a row of a table of types (what it expects in words, its parser). Defaults are
 * run through the same parsers as the file's values before the file is read, so a default is
 * never a special case. A wrong line is told and skipped: one run of the program shows them all.
 * What concerns two keys at once (a spool below its own mount point) is checked at the end.
 */
#include "fs/conf.h"
#include "fs/unmount.h"
#include "meta/base/err.h"
#include "meta/base/path.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct conf_key;
typedef bool conf_parser(const struct conf_key *key, const char *value, void *out);

struct unit {
	const char *name;
	uint64_t factor;
};

struct conf_type {
	const char *expects;
	conf_parser *parse;
	const struct unit *units; /* of what has limits, and may have a unit */
};

struct conf_key {
	const char *name;
	const struct conf_type *type;
	size_t offset;
	const char *def; /* NULL: must be given; "": may be left out */
	const char *const *words; /* of a word key, NULL at the end */
	uint64_t least, most; /* of a number */
	bool repeat;
	const char *help;
};

static const char *const role_words[] = { "active", "standby", NULL };
static const char *const level_words[] = { "local", "received", "flushed", "applied",
	NULL };
static const char *const kind_words[] = { "delivery", "flags", "other", NULL };
static const char *const alone_words[] = { "continue", "refuse", NULL };
static const char *const sync_words[] = { "commit", "each", NULL };
static const char *const transport_words[] = { "dev", "uring", NULL };
static const char *const bool_words[] = { "no", "yes", NULL };
static const char *const log_words[] = { "error", "warning", "info", "debug", NULL };

static int
word_index(const char *const *words, const char *value, size_t len)
{
	for (int i = 0; words[i] != NULL; i++)
		if (strlen(words[i]) == len && memcmp(words[i], value, len) == 0)
			return i;
	return -1;
}

static bool
parse_word(const struct conf_key *key, const char *value, void *out)
{
	int i = word_index(key->words, value, strlen(value));

	if (i >= 0)
		*(uint32_t *)out = (uint32_t)i;
	return i >= 0;
}

/* Absolute, without `.` or `..` or doubled slashes, so that prefixes can be compared. */
static bool
parse_path(const struct conf_key *key, const char *value, void *out)
{
	char *path = out;
	size_t n = strlen(value);

	(void)key;
	if (value[0] != '/' || n >= CONF_PATH_MAX)
		return false;
	for (const char *p = value; *p != '\0';) {
		size_t part = strcspn(p + 1, "/");
		if (part == 0 && p[1] == '/')
			return false;
		if ((part == 1 && p[1] == '.') ||
			(part == 2 && p[1] == '.' && p[2] == '.'))
			return false;
		p += 1 + part;
	}
	memcpy(path, value, n + 1);
	while (n > 1 && path[n - 1] == '/')
		path[--n] = '\0';
	return true;
}

static bool
parse_name(const struct conf_key *key, const char *value, void *out)
{
	size_t n = strlen(value);

	(void)key;
	if (n == 0 || n >= CONF_NAME_MAX || value[0] == '.' || value[0] == '-')
		return false;
	for (size_t i = 0; i < n; i++)
		if (!isalnum((unsigned char)value[i]) &&
			strchr("._-", value[i]) == NULL)
			return false;
	memcpy(out, value, n + 1);
	return true;
}

static bool
parse_digits(const char *value, uint64_t most, uint64_t *out, const char **rest)
{
	uint64_t v = 0;

	if (!isdigit((unsigned char)*value))
		return false;
	for (; isdigit((unsigned char)*value); value++) {
		uint64_t digit = (uint64_t)(*value - '0');
		if (v > (most - digit) / 10)
			return false;
		v = v * 10 + digit;
	}
	*out = v;
	*rest = value;
	return true;
}

static const struct unit time_units[] = { { "ms", 1 }, { "s", 1000 }, { "m", 60000 },
	{ "h", 3600000 }, { "d", 86400000 }, { "", 1000 }, { NULL, 0 } };
static const struct unit size_units[] = { { "K", 1 << 10 }, { "M", 1 << 20 },
	{ "G", 1 << 30 }, { "T", 1ULL << 40 }, { "", 1 }, { NULL, 0 } };
static const struct unit no_units[] = { { "", 1 }, { NULL, 0 } };

/* A number with a unit of the table: value times factor, within the key's limits. */
static bool
parse_amount(const struct conf_key *key, const struct unit *units, const char *value,
	void *out)
{
	uint64_t v;
	const char *rest;

	if (!parse_digits(value, UINT64_MAX / 10, &v, &rest))
		return false;
	for (const struct unit *u = units; u->name != NULL; u++) {
		if (strcmp(rest, u->name) != 0)
			continue;
		if (v > key->most / u->factor || v * u->factor < key->least)
			return false;
		*(uint64_t *)out = v * u->factor;
		return true;
	}
	return false;
}

static bool
parse_time(const struct conf_key *key, const char *value, void *out)
{
	return parse_amount(key, time_units, value, out);
}

static bool
parse_size(const struct conf_key *key, const char *value, void *out)
{
	return parse_amount(key, size_units, value, out);
}

static bool
parse_rate(const struct conf_key *key, const char *value, void *out)
{
	if (strcmp(value, "none") != 0)
		return parse_amount(key, size_units, value, out);
	*(uint64_t *)out = 0;
	return true;
}

static bool
parse_number(const struct conf_key *key, const char *value, void *out)
{
	return parse_amount(key, no_units, value, out);
}

/* host:port, where an IPv6 address stands in brackets. */
static bool
parse_addr(const struct conf_key *key, const char *value, void *out)
{
	struct conf_addr addr = { "", "" };
	const char *host = value, *colon = strrchr(value, ':'), *rest;
	size_t n;
	uint64_t port;

	(void)key;
	if (colon == NULL)
		return false;
	n = (size_t)(colon - host);
	if (n >= 2 && host[0] == '[' && host[n - 1] == ']') {
		host++;
		n -= 2;
	} else if (memchr(host, ':', n) != NULL) {
		return false;
	}
	if (n == 0 || n >= CONF_HOST_MAX || strcspn(host, " \t[]") < n)
		return false;
	if (!parse_digits(colon + 1, 65535, &port, &rest) || *rest != '\0' || port == 0)
		return false;
	memcpy(addr.host, host, n);
	snprintf(addr.port, sizeof(addr.port), "%u", (unsigned)port);
	*(struct conf_addr *)out = addr;
	return true;
}

/* The next word of *p, at most size - 1 bytes, moved past it. */
static bool
next_word(const char **p, char *out, size_t size)
{
	size_t n;

	*p += strspn(*p, " \t");
	n = strcspn(*p, " \t");
	if (n == 0 || n >= size)
		return false;
	memcpy(out, *p, n);
	out[n] = '\0';
	*p += n;
	return true;
}

/* out is the whole struct conf: a peer is added behind the others. */
static bool
parse_peer(const struct conf_key *key, const char *value, void *out)
{
	struct conf *conf = out;
	struct conf_peer peer = { "", { "", "" }, { 0 } };
	char name[CONF_NAME_MAX], addr[CONF_HOST_MAX + 16], print[80];

	if (conf->n_peers == CONF_PEERS_MAX || !next_word(&value, name, sizeof(name)) ||
		!next_word(&value, addr, sizeof(addr)) ||
		!next_word(&value, print, sizeof(print)))
		return false;
	value += strspn(value, " \t");
	if (*value != '\0' || strncmp(print, "sha256:", 7) != 0)
		return false;
	for (char *c = print + 7; *c != '\0'; c++)
		*c = (char)tolower((unsigned char)*c);
	if (!parse_name(key, name, peer.name) || !parse_addr(key, addr, &peer.addr) ||
		hash_unhex(print + 7, peer.fingerprint, SHA256_LEN) != 0)
		return false;
	conf->peers[conf->n_peers++] = peer;
	return true;
}

/* LEVEL for all, then KIND=LEVEL for some, with commas between; the order does not matter. */
static bool
parse_durability(const struct conf_key *key, const char *value, void *out)
{
	uint32_t level[CONF_KINDS], all = CONF_LOCAL;
	bool have_all = false, have[CONF_KINDS] = { false };

	(void)key;
	for (const char *p = value;; p++) {
		p += strspn(p, " \t");
		size_t n = strcspn(p, ","), end = n;
		while (n > 0 && (p[n - 1] == ' ' || p[n - 1] == '\t'))
			n--;
		const char *eq = memchr(p, '=', n);
		int kind = -1;
		if (eq != NULL) {
			kind = word_index(kind_words, p, (size_t)(eq - p));
			if (kind < 0 || have[kind])
				return false;
		} else if (have_all) {
			return false;
		}
		const char *word = eq != NULL ? eq + 1 : p;
		int at = word_index(level_words, word, (size_t)(p + n - word));
		if (at < 0)
			return false;
		if (kind >= 0) {
			level[kind] = (uint32_t)at;
			have[kind] = true;
		} else {
			all = (uint32_t)at;
			have_all = true;
		}
		p += end;
		if (*p == '\0')
			break;
	}
	for (int kind = 0; kind < CONF_KINDS; kind++)
		((uint32_t *)out)[kind] = have[kind] ? level[kind] : all;
	return true;
}

static const struct conf_type type_path = { "an absolute path without . or ..",
	parse_path, NULL };
static const struct conf_type type_name = {
	"a name of letters, digits, dots, dashes (at most 63)", parse_name, NULL
};
static const struct conf_type type_word = { "one of", parse_word, NULL };
static const struct conf_type type_time = { "a time such as 500ms, 10s, 5m, 2h or 7d",
	parse_time, time_units };
static const struct conf_type type_size = { "a size such as 512M or 1G", parse_size,
	size_units };
static const struct conf_type type_rate = {
	"none, or bytes a second such as 500K or 2M", parse_rate, size_units
};
static const struct conf_type type_number = { "a number", parse_number, no_units };
static const struct conf_type type_addr = { "HOST:PORT or [IPV6]:PORT", parse_addr,
	NULL };
static const struct conf_type type_peer = {
	"NAME HOST:PORT sha256:FINGERPRINT (64 hex digits)", parse_peer, NULL
};
static const struct conf_type type_durability = {
	"local, received, flushed or applied, then for some kinds "
	"delivery=, flags= or other= LEVEL, with commas between",
	parse_durability, NULL
};

#define AT(field) offsetof(struct conf, field)
#define MS_DAY 86400000ULL

/* clang-format off */
static const struct conf_key conf_keys[] = {
	{ "mountpoint", &type_path, AT(mountpoint), NULL, NULL, 0, 0, false,
		"empty folder that becomes the mail partition" },
	{ "spool", &type_path, AT(spool), NULL, NULL, 0, 0, false,
		"backing tree on an ordinary filesystem" },
	{ "state", &type_path, AT(state), NULL, NULL, 0, 0, false,
		"journal, positions, history, key and certificate" },
	{ "name", &type_name, AT(name), NULL, NULL, 0, 0, false,
		"this node in its peers' configuration" },
	{ "listen", &type_addr, AT(listen), "", NULL, 0, 0, false,
		"where peers connect; without it this node only dials" },
	{ "peer", &type_peer, 0, "", NULL, 0, 0, true,
		"name, address and pinned fingerprint; one line per peer" },
	{ "role", &type_word, AT(role), "active", role_words, 0, 0, false,
		"for the very first start; afterwards the state decides" },
	{ "durability", &type_durability, AT(durability), "local", NULL, 0, 0, false,
		"what a client's OK means" },
	{ "when_alone", &type_word, AT(when_alone), "continue", alone_words, 0, 0, false,
		"what to do about durability while no peer answers" },
	{ "durability_timeout", &type_time, AT(durability_timeout), "10s", NULL, 10,
		MS_DAY, false,
		"how long an answer waits for the peers before when_alone decides" },
	{ "sync", &type_word, AT(sync), "commit", sync_words, 0, 0, false,
		"join the syncs of a commit into one round, or do each as it comes" },
	{ "imapd_conf", &type_path, AT(imapd_conf), "/etc/imapd.conf", NULL, 0, 0, false,
		"where Cyrus's configuration lies; nothing reads it yet" },
	{ "start_wait", &type_time, AT(start_wait), "10s", NULL, 0, MS_DAY, false,
		"how long a start waits for the peers' hello before it serves" },
	{ "stop_wait", &type_time, AT(stop_wait), "60s", NULL, 0, 7 * MS_DAY, false,
		"how long a clean stop waits for the peers" },
	{ "journal_size", &type_size, AT(journal_size), "1G", NULL, 1 << 20, 1ULL << 44, false,
		"bytes kept for a peer that is away" },
	{ "journal_age", &type_time, AT(journal_age), "7d", NULL, 1000, 3650 * MS_DAY, false,
		"how long they are kept" },
	{ "rate", &type_rate, AT(rate), "none", NULL, 32 << 10, 1ULL << 40, false,
		"bytes a second that are sent to each peer at most" },
	{ "xattr", &type_word, AT(xattr), "no", bool_words, 0, 0, false,
		"extended attributes and access control lists" },
	{ "threads", &type_number, AT(threads), "10", NULL, 1, 40, false,
		"threads that answer requests" },
	{ "transport", &type_word, AT(transport), "dev", transport_words, 0, 0, false,
		"how requests come from the kernel; uring does not survive a server's death" },
	{ "log", &type_word, AT(log), "info", log_words, 0, 0, false,
		"the least important lines that are written" },
};
/* clang-format on */
enum { N_KEYS = sizeof(conf_keys) / sizeof(conf_keys[0]), MAX_COMPLAINTS = 50 };

struct parse {
	const char *path;
	struct conf *conf;
	struct buf *out;
	unsigned line[N_KEYS]; /* where each key stood last, 0 if nowhere */
	unsigned peer_line[CONF_PEERS_MAX]; /* of each peer that was taken */
	unsigned n_wrong;
};

static void
wrong(struct parse *p, unsigned line, const char *key, const char *expected,
	const char *value)
{
	if (++p->n_wrong > MAX_COMPLAINTS)
		return;
	buf_printf(p->out, "%s:", p->path);
	if (line > 0)
		buf_printf(p->out, "%u:", line);
	buf_printf(p->out, " %s: expected %s", key, expected);
	if (value != NULL)
		buf_printf(p->out, ", not \"%.200s\"", value);
	buf_printf(p->out, "\n");
}

/* In the largest unit that says it without a fraction. */
static void
amount(const struct unit *units, uint64_t v, struct buf *out)
{
	const struct unit *best = units;

	for (const struct unit *u = units; u->name != NULL; u++)
		if (v % u->factor == 0 && v >= u->factor && u->factor >= best->factor)
			best = u;
	buf_printf(out, "%llu%s", (unsigned long long)(v / best->factor), best->name);
}

/* What a key expects, in words, with its choices or limits. */
static void
expectation(const struct conf_key *key, struct buf *out)
{
	buf_printf(out, "%s", key->type->expects);
	for (const char *const *w = key->words; w != NULL && *w != NULL; w++)
		buf_printf(out, "%s %s", w == key->words ? "" : ",", *w);
	if (key->type->units == NULL)
		return;
	buf_printf(out, " from ");
	amount(key->type->units, key->least, out);
	buf_printf(out, " to ");
	amount(key->type->units, key->most, out);
}

static bool
set_key(const struct conf_key *key, const char *value, struct conf *conf)
{
	return key->type->parse(key, value, (char *)conf + key->offset);
}

static void
take(struct parse *p, unsigned line, const char *name, const char *value)
{
	struct buf what = BUF_INIT;
	uint32_t n_peers = p->conf->n_peers;

	for (unsigned i = 0; i < N_KEYS; i++) {
		const struct conf_key *key = &conf_keys[i];
		if (strcmp(key->name, name) != 0)
			continue;
		if (p->line[i] != 0 && !key->repeat) {
			buf_printf(&what, "it once, it stands already in line %u",
				p->line[i]);
			wrong(p, line, name, buf_str(&what), NULL);
		} else if (!set_key(key, value, p->conf)) {
			expectation(key, &what);
			if (key->repeat && p->conf->n_peers == CONF_PEERS_MAX)
				buf_printf(&what, ", at most %d times", CONF_PEERS_MAX);
			wrong(p, line, name, buf_str(&what), value);
		}
		p->line[i] = line;
		if (p->conf->n_peers > n_peers)
			p->peer_line[n_peers] = line;
		buf_fini(&what);
		return;
	}
	wrong(p, line, name, "a key of twinspool.conf(5)", name);
}

/* One line, not terminated: white space, comment, or key: value. */
static void
take_line(struct parse *p, unsigned line, const char *text, size_t len)
{
	char buf[CONF_PATH_MAX + 256];
	char *at = buf, *colon, *value;

	if (memchr(text, '\0', len) != NULL || len >= sizeof(buf)) {
		wrong(p, line, "line", "less than 4 KiB of text without NUL", NULL);
		return;
	}
	memcpy(buf, text, len);
	buf[len] = '\0';
	at += strspn(at, " \t\r");
	if (*at == '\0' || *at == '#')
		return;
	colon = strchr(at, ':');
	if (colon == NULL || colon == at) {
		wrong(p, line, "line", "`key: value`", at);
		return;
	}
	*colon = '\0';
	for (char *end = colon; end > at && isblank((unsigned char)end[-1]);)
		*--end = '\0';
	value = colon + 1;
	for (char *c = value; *c != '\0'; c++)
		if (*c == '#' && isblank((unsigned char)c[-1]))
			*c-- = '\0';
	value += strspn(value, " \t");
	for (char *end = value + strlen(value);
		end > value && isspace((unsigned char)end[-1]);)
		*--end = '\0';
	take(p, line, at, value);
}

/* True if path is dir or lies below it. */
static bool
path_within(const char *path, const char *dir)
{
	return strcmp(dir, "/") == 0 || path_rest(path, dir) != NULL;
}

static unsigned
line_of(const struct parse *p, const char *name)
{
	for (unsigned i = 0; i < N_KEYS; i++)
		if (strcmp(conf_keys[i].name, name) == 0)
			return p->line[i];
	return 0;
}

/* Who a peer is, its certificate says: two peers cannot share one. */
static void
check_peer(struct parse *p, uint32_t i)
{
	const struct conf_peer *peer = &p->conf->peers[i], *other = p->conf->peers;

	if (strcmp(peer->name, p->conf->name) == 0)
		wrong(p, p->peer_line[i], "peer", "a name that is not this node's",
			peer->name);
	for (; other < peer; other++) {
		if (strcmp(peer->name, other->name) == 0)
			wrong(p, p->peer_line[i], "peer",
				"a name that no other peer has", peer->name);
		else if (memcmp(peer->fingerprint, other->fingerprint, SHA256_LEN) == 0)
			wrong(p, p->peer_line[i], "peer",
				"a fingerprint that no other peer has", peer->name);
	}
}

static void
check_whole(struct parse *p)
{
	const struct conf *c = p->conf;

	for (unsigned i = 0; i < N_KEYS; i++)
		if (conf_keys[i].def == NULL && p->line[i] == 0)
			wrong(p, 0, conf_keys[i].name,
				"a line with this key, it has no default", NULL);
	if (p->n_wrong > 0)
		return;
	if (path_within(c->spool, c->mountpoint) ||
		path_within(c->mountpoint, c->spool))
		wrong(p, line_of(p, "spool"), "spool",
			"a folder neither below nor above the mount point", c->spool);
	if (path_within(c->state, c->mountpoint) || path_within(c->state, c->spool))
		wrong(p, line_of(p, "state"), "state",
			"a folder outside the mount point and the spool", c->state);
	for (int kind = 0; kind < CONF_KINDS && c->n_peers == 0; kind++) {
		if (c->durability[kind] == CONF_LOCAL)
			continue;
		wrong(p, line_of(p, "durability"), "durability",
			"local, or a peer that could confirm more",
			level_words[c->durability[kind]]);
		break;
	}
	for (uint32_t i = 0; i < c->n_peers; i++)
		check_peer(p, i);
}

int
conf_parse(const char *path, const char *text, size_t len, struct conf *out,
	struct buf *complaints)
{
	struct parse p = { .path = path, .conf = out, .out = complaints };
	const char *at = text, *end = text + len;

	memset(out, 0, sizeof(*out));
	if (strlen(path) >= sizeof(out->path))
		return ERR_LIMIT;
	memcpy(out->path, path, strlen(path) + 1);
	for (unsigned i = 0; i < N_KEYS; i++)
		if (conf_keys[i].def != NULL && conf_keys[i].def[0] != '\0' &&
			!set_key(&conf_keys[i], conf_keys[i].def, out))
			return ERR_CONF;
	for (unsigned line = 1; at < end; line++) {
		const char *nl = memchr(at, '\n', (size_t)(end - at));
		size_t n = (size_t)((nl != NULL ? nl : end) - at);
		take_line(&p, line, at, n);
		at += n + 1;
	}
	check_whole(&p);
	if (p.n_wrong > MAX_COMPLAINTS)
		buf_printf(
			complaints, "%s: %u more\n", path, p.n_wrong - MAX_COMPLAINTS);
	return p.n_wrong > 0 ? ERR_CONF : 0;
}

int
conf_load(const char *path, struct conf *out, struct buf *complaints)
{
	char real[PATH_MAX];
	char *text = NULL;
	size_t len = 0;
	struct stat st;
	int fd = -1, rc = 0;

	if (realpath(path, real) == NULL ||
		(fd = open(real, O_RDONLY | O_CLOEXEC)) < 0 || fstat(fd, &st) < 0) {
		rc = err_from_errno(errno);
		buf_printf(complaints, "%s: %s\n", path, strerror(errno));
		goto out;
	}
	if (!S_ISREG(st.st_mode) || st.st_size > CONF_FILE_MAX) {
		rc = ERR_LIMIT;
		buf_printf(complaints,
			"%s: expected an ordinary file of at most %d bytes\n", path,
			CONF_FILE_MAX);
		goto out;
	}
	text = malloc(CONF_FILE_MAX);
	if (text == NULL) {
		rc = ERR_NOMEM;
		goto out;
	}
	for (ssize_t n = 1; n > 0 && len < CONF_FILE_MAX; len += (size_t)n) {
		n = read(fd, text + len, CONF_FILE_MAX - len);
		if (n < 0) {
			rc = err_from_errno(errno);
			buf_printf(complaints, "%s: %s\n", path, strerror(errno));
			goto out;
		}
	}
	rc = conf_parse(real, text, len, out, complaints);
	/* One that leads nowhere stays as it is, and is refused at the start. */
	if (rc == 0 && unmount_real_path(out->mountpoint, real))
		memcpy(out->mountpoint, real, strlen(real) + 1);
out:
	free(text);
	if (fd >= 0)
		close(fd);
	return rc;
}

void
conf_describe(struct buf *out)
{
	for (unsigned i = 0; i < N_KEYS; i++) {
		const struct conf_key *key = &conf_keys[i];
		buf_printf(out, "%s:\n\t%s\n\tvalue: ", key->name, key->help);
		expectation(key, out);
		if (key->def == NULL)
			buf_printf(out, "\n\tmust be given\n");
		else if (key->def[0] != '\0')
			buf_printf(out, "\n\tdefault: %s\n", key->def);
		else
			buf_printf(out, "\n\tdefault: none\n");
	}
}

const char *
conf_key_name(unsigned n)
{
	return n < N_KEYS ? conf_keys[n].name : NULL;
}

bool
conf_parse_time(const char *text, uint64_t *ms_out)
{
	static const struct conf_key any = { .name = "time", .most = 3650 * MS_DAY };

	return parse_time(&any, text, ms_out);
}
