/*
 * How it works: the folder is a mailbox if it holds cyrus.index or cyrus.header and no further
 * mailboxes have to be looked for; the walk finds those below in any case. Findings are printed
 * as they come, the counts at the end. Which partition of imapd.conf the folder is, the paths
 * there tell: it is the folder, or the mount of a slot whose spool the folder is.
 */
#include "fs/client.h"
#include "fs/cmd.h"
#include "fs/emit.h"
#include "meta/base/err.h"
#include "meta/fsck.h"
#include "meta/imapd.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
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
print_counts(struct report *r, const struct fsck_counts *n, bool compared)
{
	if (r->json) {
		emit_thing(&r->e, "summary", false);
		emit_number(&r->e, "mailboxes", n->mailboxes);
		emit_number(&r->e, "messages", n->messages);
		emit_number(&r->e, "bytes", n->bytes);
		emit_number(&r->e, "findings", n->findings);
		emit_text(&r->e, "databases", compared ? "compared" : "not compared");
		emit_close(&r->e);
		emit_end(&r->e);
	} else {
		buf_printf(&r->out,
			"%" PRIu64 " mailboxes, %" PRIu64 " messages, %" PRIu64
			" bytes read, %" PRIu64 " findings%s\n",
			n->mailboxes, n->messages, n->bytes, n->findings,
			compared ? ""
				 : "; not compared with Cyrus's databases "
				   "(--imapd-conf)");
	}
	flush(r);
}

static bool
same_folder(const char *path, const struct stat *dir)
{
	struct stat st;

	return stat(path, &st) == 0 && st.st_dev == dir->st_dev &&
	       st.st_ino == dir->st_ino;
}

/* Is a slot mounted at path whose spool is the folder? A mount without an answer is not asked. */
static bool
mounts_folder(const char *path, const struct stat *dir)
{
	struct buf why = BUF_INIT;
	struct client client;
	char real[MOUNT_PATH_MAX];
	bool found = false;

	if (unmount_real_path(path, real) && unmount_find(real, &client.place) == 0 &&
		conf_load(client.place.source, &client.conf, &why) == 0)
		found = same_folder(client.conf.spool, dir);
	buf_fini(&why);
	return found;
}

/* The name of the partition that the folder is, or NULL. */
static const char *
partition_of(const struct imapd *imapd, int fd)
{
	struct stat dir;

	if (fstat(fd, &dir) != 0)
		return NULL;
	for (size_t i = 0; i < imapd->n_partitions; i++)
		if (mounts_folder(imapd->partitions[i].path, &dir) ||
			same_folder(imapd->partitions[i].path, &dir))
			return imapd->partitions[i].name;
	return NULL;
}

/* Checks the folder. 0 or what fsck_spool says, printed. */
static int
check(const char *folder, const char *imapd_conf, struct fsck_options options,
	struct report *r, struct fsck_counts *counts)
{
	struct fsck_conf conf = { .why = "" };
	struct imapd imapd = { .n_partitions = 0 };
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc = fd < 0 ? err_from_errno(errno) : 0;

	if (rc == 0 && imapd_conf != NULL) {
		rc = imapd_load(imapd_conf, &imapd, conf.why, sizeof(conf.why));
		conf.imapd = &imapd;
		conf.partition = rc == 0 ? partition_of(&imapd, fd) : NULL;
		options.conf = &conf;
		if (rc == 0 && conf.partition == NULL) {
			snprintf(conf.why, sizeof(conf.why),
				"no partition of it is %.200s", folder);
			rc = ERR_CONF;
		}
	}
	if (rc == 0) {
		emit_begin(&r->e, &r->out, r->json);
		rc = fsck_spool(fd, &options, print_finding, r, counts);
		print_counts(r, counts, rc == 0 && imapd_conf != NULL);
		if (fflush(stdout) != 0 && rc == 0)
			rc = ERR_IO;
	}
	if (rc != 0)
		fprintf(stderr, "twinspool: %s: %s\n",
			conf.why[0] ? imapd_conf : folder,
			conf.why[0] ? conf.why : err_text(rc));
	if (fd >= 0)
		close(fd);
	imapd_fini(&imapd);
	return rc;
}

int
cmd_fsck(int argc, char **argv)
{
	static const struct option longs[] = { { "json", no_argument, NULL, 'j' },
		{ "no-bodies", no_argument, NULL, 'n' },
		{ "imapd-conf", required_argument, NULL, 'c' }, { NULL, 0, NULL, 0 } };
	struct fsck_options options = { .bodies = true, .times = true };
	const char *imapd_conf = NULL;
	struct fsck_counts counts = { 0 };
	struct report r = { .out = BUF_INIT };
	int c;

	while ((c = getopt_long(argc, argv, "jnc:", longs, NULL)) != -1) {
		if (c == '?')
			goto usage;
		if (c == 'j')
			r.json = true;
		else if (c == 'c')
			imapd_conf = optarg;
		else
			options.bodies = false;
	}
	if (optind + 1 != argc)
		goto usage;
	int rc = check(argv[optind], imapd_conf, options, &r, &counts);
	buf_fini(&r.out);
	if (rc != 0)
		return FSCK_NOT_RUN;
	return counts.findings ? FSCK_FINDINGS : FSCK_CLEAN;
usage:
	fputs("usage: twinspool fsck [--json] [--no-bodies] [--imapd-conf FILE] "
	      "FOLDER\n",
		stderr);
	return FSCK_NOT_RUN;
}
