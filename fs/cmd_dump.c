/*
 * cmd_dump.c - the words of `twinspool dump`; fs/dump.c does it.
 */
#include "fs/cmd.h"
#include "fs/dump.h"
#include "meta/base/err.h"

#include <getopt.h>
#include <stdio.h>

int
cmd_dump(int argc, char **argv)
{
	static const struct option longs[] = { { "json", no_argument, NULL, 'j' },
		{ NULL, 0, NULL, 0 } };
	struct buf out = BUF_INIT;
	bool json = false;
	int c;

	while ((c = getopt_long(argc, argv, "j", longs, NULL)) != -1) {
		if (c == '?')
			goto usage;
		json = true;
	}
	if (optind + 1 != argc)
		goto usage;
	int rc = dump_is_journal(argv[optind])
			 ? dump_journal(argv[optind], json, stdout)
			 : dump_file(argv[optind], json, &out);
	if (fwrite(out.data, 1, out.len, stdout) != out.len || fflush(stdout) != 0)
		rc = rc ? rc : ERR_IO;
	if (rc != 0)
		fprintf(stderr, "twinspool: %s: %s\n", argv[optind], err_text(rc));
	buf_fini(&out);
	return rc ? CMD_FAIL : CMD_OK;
usage:
	fputs("usage: twinspool dump [--json] FILE\n", stderr);
	return CMD_USAGE;
}
