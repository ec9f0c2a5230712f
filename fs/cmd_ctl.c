/*
 * How it works: each command sends one line to the slot's control socket and prints the answer.
 * A server that died meanwhile is asked again: its successor knows no less.
 */
#include "fs/cmd.h"
#include "fs/client.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATIENCE_MS = 3000, ANSWER_MS = 10000, WATCH_MS = 1000 };

/* The slot that arg means, to be freed; NULL after having said why not. */
static struct client *
find(const char *arg)
{
	struct client *c = calloc(1, sizeof(*c));
	struct buf why = BUF_INIT;

	if (c != NULL && client_find(arg, c, &why) != 0) {
		fprintf(stderr, "twinspool: %s", buf_str(&why));
		free(c);
		c = NULL;
	}
	buf_fini(&why);
	return c;
}

static int
print_answer(int rc, struct buf *b)
{
	if (rc != 0) {
		fprintf(stderr, "twinspool: %s\n", buf_str(b));
		return CMD_FAIL;
	}
	fwrite(b->data, 1, b->len, stdout);
	return fflush(stdout) == 0 ? CMD_OK : CMD_FAIL;
}

int
cmd_status(int argc, char **argv)
{
	static const struct option longs[] = { { "json", no_argument, NULL, 'j' },
		{ "metrics", no_argument, NULL, 'm' },
		{ "watch", no_argument, NULL, 'w' }, { NULL, 0, NULL, 0 } };
	const char *line = NULL;
	struct buf b = BUF_INIT;
	struct client *client;
	bool watch = false;
	int c, code;

	while ((c = getopt_long(argc, argv, "jmw", longs, NULL)) != -1) {
		if (c == '?' || (c != 'w' && line != NULL))
			goto usage;
		if (c == 'w')
			watch = true;
		else
			line = c == 'j' ? "status json" : "status metrics";
	}
	if (optind + 1 != argc)
		goto usage;
	client = find(argv[optind]);
	if (client == NULL)
		return CMD_FAIL;
	for (;;) {
		int rc = client_ask(client, line != NULL ? line : "status", ANSWER_MS,
			PATIENCE_MS, &b);
		if (watch && isatty(STDOUT_FILENO))
			fputs("\033[H\033[J", stdout);
		code = print_answer(rc, &b);
		if (!watch || (code != CMD_OK && !isatty(STDOUT_FILENO)))
			break;
		usleep(WATCH_MS * 1000);
	}
	buf_fini(&b);
	free(client);
	return code;
usage:
	fputs("usage: twinspool status [--json|--metrics] [--watch] "
	      "MOUNTPOINT|SLOT.conf\n",
		stderr);
	return CMD_USAGE;
}

int
cmd_wait(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "timeout", required_argument, NULL, 't' }, { NULL, 0, NULL, 0 }
	};
	struct buf b = BUF_INIT;
	struct client *client;
	char line[64];
	int timeout = -1, c, rc, code;
	uint64_t end;

	while ((c = getopt_long(argc, argv, "t:", longs, NULL)) != -1)
		if (c != 't' || (timeout = client_time(optarg)) < 0)
			goto usage;
	if (optind + 1 != argc)
		goto usage;
	client = find(argv[optind]);
	if (client == NULL)
		return CMD_FAIL;
	end = clock_ms() + (uint64_t)(timeout < 0 ? 0 : timeout);
	for (;;) {
		uint64_t now = clock_ms();
		int left = timeout < 0 ? -1 : now < end ? (int)(end - now) : 0;
		if (left < 0)
			snprintf(line, sizeof(line), "wait");
		else
			snprintf(line, sizeof(line), "wait timeout=%d", left);
		rc = client_ask(client, line, left < 0 ? -1 : left + ANSWER_MS,
			PATIENCE_MS, &b);
		if (rc != ERR_LINK || left == 0)
			break;
	}
	code = print_answer(rc, &b);
	buf_fini(&b);
	free(client);
	return code;
usage:
	fputs("usage: twinspool wait [--timeout TIME] MOUNTPOINT|SLOT.conf\n", stderr);
	return CMD_USAGE;
}

int
cmd_continue(int argc, char **argv)
{
	struct buf b = BUF_INIT;
	struct client *client;
	int code;

	if (argc != 2 || argv[1][0] == '-') {
		fputs("usage: twinspool continue MOUNTPOINT|SLOT.conf\n", stderr);
		return CMD_USAGE;
	}
	client = find(argv[1]);
	if (client == NULL)
		return CMD_FAIL;
	code = print_answer(
		client_ask(client, "force", ANSWER_MS, PATIENCE_MS, &b), &b);
	buf_fini(&b);
	free(client);
	return code;
}
