/*
 * How it works: lines `key: value`, as Cyrus reads them: blanks around both are dropped, keys are
 * of any case, a line that begins with # is a comment, one that ends with a backslash goes on,
 * and `@include: FILE` stands for that file. An option is a row of the table of texts below; a
 * partition-NAME becomes a partition; everything else is of no interest here.
 */
#include "meta/imapd.h"
#include "meta/base/err.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FILES = 64, MAX_SIZE = 1 << 20, MAX_PARTITIONS = 10000 };

/* The options as they stand in the file. */
struct texts {
	char *configdirectory, *hashimapspool, *fulldirhash;
	char *mailboxes, *mailboxes_kind, *annotations, *annotations_kind, *quota_kind;
};

struct reading {
	struct texts t;
	struct imapd *out;
	char *why;
	size_t n_why;
	unsigned files; /* read so far */
};

static int
keep(char **at, const char *value)
{
	free(*at);
	*at = strdup(value);
	return *at ? 0 : ERR_NOMEM;
}

static int
add_partition(struct imapd *c, const char *name, const char *path)
{
	if (c->n_partitions == MAX_PARTITIONS)
		return ERR_LIMIT;
	struct imapd_partition *grown =
		realloc(c->partitions, (c->n_partitions + 1) * sizeof(*grown));
	if (grown == NULL)
		return ERR_NOMEM;
	c->partitions = grown;
	struct imapd_partition *p = &grown[c->n_partitions];
	p->name = strdup(name);
	p->path = strdup(path);
	c->n_partitions++;
	return p->name && p->path ? 0 : ERR_NOMEM;
}

static int
take_option(struct reading *r, const char *key, const char *value)
{
	const struct {
		const char *key;
		char **text;
	} rows[] = {
		{ "configdirectory", &r->t.configdirectory },
		{ "hashimapspool", &r->t.hashimapspool },
		{ "fulldirhash", &r->t.fulldirhash },
		{ "mboxlist_db", &r->t.mailboxes_kind },
		{ "mboxlist_db_path", &r->t.mailboxes },
		{ "annotation_db", &r->t.annotations_kind },
		{ "annotation_db_path", &r->t.annotations },
		{ "quota_db", &r->t.quota_kind },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (strcasecmp(key, rows[i].key) == 0)
			return keep(rows[i].text, value);
	if (strncasecmp(key, "partition-", 10) == 0)
		return add_partition(r->out, key + 10, value);
	return 0;
}

static char *
trim(char *s)
{
	size_t n = strlen(s);

	while (n > 0 && isspace((unsigned char)s[n - 1]))
		s[--n] = '\0';
	return s + strspn(s, " \t\r\n\f\v");
}

static int read_file(struct reading *r, const char *path);

static int
take_line(struct reading *r, char *line)
{
	char *key = trim(line), *colon = strchr(key, ':');

	if (*key == '\0' || *key == '#' || colon == NULL)
		return 0;
	*colon = '\0';
	char *value = trim(colon + 1);
	key = trim(key);
	if (strcasecmp(key, "@include") == 0)
		return read_file(r, value);
	return take_option(r, key, value);
}

/* The next line with those that continue it. ERR_NOTFOUND at the end of the file. */
static int
next_line(FILE *f, char **line, size_t *cap, char **part, size_t *part_cap)
{
	ssize_t n = getline(line, cap, f);

	while (n >= 2 && (*line)[n - 1] == '\n' && (*line)[n - 2] == '\\') {
		ssize_t more = getline(part, part_cap, f);
		if (more < 0)
			break;
		n -= 2;
		if (*cap < (size_t)(n + more + 1)) {
			char *grown = realloc(*line, (size_t)(n + more + 1));
			if (grown == NULL)
				return ERR_NOMEM;
			*line = grown;
			*cap = (size_t)(n + more + 1);
		}
		memcpy(*line + n, *part, (size_t)more + 1);
		n += more;
	}
	if (n >= 0)
		return 0;
	return feof(f) ? ERR_NOTFOUND : ERR_IO;
}

/* Neither waits for somebody to write it nor reads without end. NULL: why says it. */
static FILE *
open_file(struct reading *r, const char *path)
{
	struct stat st;
	FILE *f = NULL;
	int fd = -1;

	if (r->files++ == MAX_FILES)
		snprintf(r->why, r->n_why, "%s: too many @include", path);
	else if ((fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC)) < 0)
		snprintf(r->why, r->n_why, "%s: %s", path, strerror(errno));
	else if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > MAX_SIZE)
		snprintf(r->why, r->n_why, "%s: not a file of at most %d bytes", path,
			MAX_SIZE);
	else
		f = fdopen(fd, "r");
	if (f == NULL && fd >= 0)
		close(fd);
	return f;
}

static int
read_file(struct reading *r, const char *path)
{
	char *line = NULL, *part = NULL;
	size_t cap = 0, part_cap = 0;
	FILE *f = open_file(r, path);
	int rc = 0;

	if (f == NULL)
		return ERR_CONF;
	while (rc == 0) {
		rc = next_line(f, &line, &cap, &part, &part_cap);
		if (rc == ERR_NOTFOUND) {
			rc = 0;
			break;
		}
		if (rc == 0)
			rc = take_line(r, line);
	}
	free(line);
	free(part);
	fclose(f);
	return rc;
}

/* As Cyrus takes a word for yes or no; neither is no, which is the default of both options. */
static bool
is_yes(const char *word)
{
	return word != NULL && word[0] != '\0' &&
	       (strchr("1tTyY", word[0]) != NULL || strcasecmp(word, "on") == 0);
}

static bool
is_kind(struct reading *r, const char *option, const char *value, const char *known)
{
	if (value == NULL || strcmp(value, known) == 0)
		return true;
	snprintf(r->why, r->n_why, "%s: %s: only %s is read", option, value, known);
	return false;
}

static int
set_path(char **out, char **given, const char *dir, const char *name)
{
	if (*given != NULL) {
		*out = *given;
		*given = NULL;
		return 0;
	}
	if (asprintf(out, "%s/%s", dir, name) < 0) {
		*out = NULL;
		return ERR_NOMEM;
	}
	return 0;
}

static int
judge(struct reading *r)
{
	struct texts *t = &r->t;
	struct imapd *c = r->out;

	if (t->configdirectory == NULL) {
		snprintf(r->why, r->n_why, "configdirectory is not set");
		return ERR_CONF;
	}
	if (!is_kind(r, "mboxlist_db", t->mailboxes_kind, "twoskip") ||
		!is_kind(r, "annotation_db", t->annotations_kind, "twoskip") ||
		!is_kind(r, "quota_db", t->quota_kind, "quotalegacy"))
		return ERR_CONF;
	c->configdirectory = t->configdirectory;
	t->configdirectory = NULL;
	c->hashimapspool = is_yes(t->hashimapspool);
	c->fulldirhash = is_yes(t->fulldirhash);
	int rc = set_path(
		&c->mailboxes, &t->mailboxes, c->configdirectory, "mailboxes.db");
	return rc ? rc
		  : set_path(&c->annotations, &t->annotations, c->configdirectory,
			    "annotations.db");
}

int
imapd_load(const char *path, struct imapd *out, char *why, size_t n)
{
	struct reading r = { .out = out, .why = why, .n_why = n };

	memset(out, 0, sizeof(*out));
	why[0] = '\0';
	int rc = read_file(&r, path);
	if (rc == 0)
		rc = judge(&r);
	free(r.t.configdirectory);
	free(r.t.hashimapspool);
	free(r.t.fulldirhash);
	free(r.t.mailboxes);
	free(r.t.mailboxes_kind);
	free(r.t.annotations);
	free(r.t.annotations_kind);
	free(r.t.quota_kind);
	if (rc != 0) {
		if (why[0] == '\0')
			snprintf(why, n, "%s", err_text(rc));
		imapd_fini(out);
	}
	return rc ? ERR_CONF : 0;
}

void
imapd_fini(struct imapd *c)
{
	free(c->configdirectory);
	free(c->mailboxes);
	free(c->annotations);
	for (size_t i = 0; i < c->n_partitions; i++) {
		free(c->partitions[i].name);
		free(c->partitions[i].path);
	}
	free(c->partitions);
	memset(c, 0, sizeof(*c));
}
