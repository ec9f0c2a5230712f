/*
 * How it works: the folder is a mailbox if it holds cyrus.index or cyrus.header and no further
 * mailboxes have to be looked for; the walk finds those below in any case. Findings are printed
 * as they come, the counts at the end.
 */
#include "fs/cmd.h"
#include "fs/emit.h"
#include "meta/base/err.h"
#include "meta/fsck.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { FSCK_CLEAN = 0, FSCK_FINDINGS = 1, FSCK_NOT_RUN = 2 };

struct report {
	struct emit e;
	struct buf out;
	bool json;
};

static void
flush(struct report *r)
{
	fwrite(r->out.data, 1, r->out.len, stdout);
	buf_clear(&r->out);
}

static void
print_finding(void *arg, const struct fsck_finding *f)
{
	struct report *r = arg;
	char class[2] = { (char)f->class, '\0' };

	if (r->json) {
		emit_thing(&r->e, "finding", false);
		emit_text(&r->e, "mailbox", f->mailbox);
		if (f->uid != 0)
			emit_number(&r->e, "uid", f->uid);
		emit_text(&r->e, "check", f->check);
		emit_text(&r->e, "class", class);
		emit_text(&r->e, "text", f->text);
		emit_text(&r->e, "cure", f->cure);
		emit_close(&r->e);
	} else {
		buf_printf(&r->out, "%s: ", f->mailbox);
		if (f->uid != 0)
			buf_printf(&r->out, "UID %u: ", f->uid);
		buf_printf(&r->out, "%s (%s): %s; cure: %s\n", f->check, class, f->text,
			f->cure);
	}
	flush(r);
}

static void
print_counts(struct report *r, const struct fsck_counts *n)
{
	if (r->json) {
		emit_thing(&r->e, "summary", false);
		emit_number(&r->e, "mailboxes", n->mailboxes);
		emit_number(&r->e, "messages", n->messages);
		emit_number(&r->e, "bytes", n->bytes);
		emit_number(&r->e, "findings", n->findings);
		emit_close(&r->e);
		emit_end(&r->e);
	} else {
		buf_printf(&r->out,
			"%" PRIu64 " mailboxes, %" PRIu64 " messages, %" PRIu64
			" bytes read, %" PRIu64 " findings\n",
			n->mailboxes, n->messages, n->bytes, n->findings);
	}
	flush(r);
}

int
cmd_fsck(int argc, char **argv)
{
	static const struct option longs[] = { { "json", no_argument, NULL, 'j' },
		{ "no-bodies", no_argument, NULL, 'n' }, { NULL, 0, NULL, 0 } };
	struct fsck_options options = { .bodies = true, .times = true };
	struct fsck_counts counts = { 0 };
	struct report r = { .out = BUF_INIT };
	int c;

	while ((c = getopt_long(argc, argv, "jn", longs, NULL)) != -1) {
		if (c == '?')
			goto usage;
		if (c == 'j')
			r.json = true;
		else
			options.bodies = false;
	}
	if (optind + 1 != argc)
		goto usage;
	int fd = open(argv[optind], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0) {
		fprintf(stderr, "twinspool: %s: %s\n", argv[optind], strerror(errno));
		return FSCK_NOT_RUN;
	}
	emit_begin(&r.e, &r.out, r.json);
	int rc = fsck_spool(fd, &options, print_finding, &r, &counts);
	close(fd);
	print_counts(&r, &counts);
	if (fflush(stdout) != 0 && rc == 0)
		rc = ERR_IO;
	if (rc != 0)
		fprintf(stderr, "twinspool: %s: %s\n", argv[optind], err_text(rc));
	buf_fini(&r.out);
	if (rc != 0)
		return FSCK_NOT_RUN;
	return counts.findings ? FSCK_FINDINGS : FSCK_CLEAN;
usage:
	fputs("usage: twinspool fsck [--json] [--no-bodies] FOLDER\n", stderr);
	return FSCK_NOT_RUN;
}
