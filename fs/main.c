/*
 * How it works: the command is the first argument, or the name the program was called by when
 * mount(8) or umount(8) call their helpers. Everything else is the command's own business.
 */
#include "fs/cmd.h"
#include "fs/conf.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int cmd_help(int argc, char **argv);

static const struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *args, *help;
} commands[] = {
	{ "mount", cmd_mount, "[-f] SLOT.conf",
		"run a slot; returns when it serves, -f stays in the foreground" },
	{ "umount", cmd_umount, "[--force] [--timeout TIME] SLOT",
		"drain, prove, unmount" },
	{ "status", cmd_status, "[--json|--metrics] [--watch] SLOT",
		"role, positions, peers, lag, quarantine" },
	{ "wait", cmd_wait, "[--timeout TIME] SLOT",
		"until every peer has everything committed up to now" },
	{ "continue", cmd_continue, "SLOT",
		"answer without the peers until they have caught up" },
	{ "keygen", cmd_keygen, "STATE-FOLDER",
		"key and certificate; prints the fingerprint that peers pin" },
	{ "dump", cmd_dump, "[--json] FILE",
		"one of Cyrus's files, field by field, or a journal.db" },
	{ "fsck", cmd_fsck, "[--json] [--no-bodies] [--imapd-conf FILE] FOLDER",
		"every check of a mailbox or spool; exit 1 if there are findings" },
	{ "help", cmd_help, "[conf]",
		"this list, or the keys of a slot's configuration" },
};
enum { N_COMMANDS = sizeof(commands) / sizeof(commands[0]) };

/* Names that mount(8) and umount(8) call the program by. */
static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
} helpers[] = {
	{ "mount.fuse.twinspool", cmd_mount_helper },
	{ "umount.fuse.twinspool", cmd_umount_helper },
};
enum { N_HELPERS = sizeof(helpers) / sizeof(helpers[0]) };

static void
print_commands(FILE *to)
{
	fputs("usage: twinspool COMMAND [ARGUMENTS]\n\n", to);
	for (unsigned i = 0; i < N_COMMANDS; i++)
		fprintf(to, "  %-8s %-36s %s\n", commands[i].name, commands[i].args,
			commands[i].help);
	fputs("\nA SLOT is a mount point or its configuration file. See "
	      "twinspool(8).\n",
		to);
}

static int
cmd_help(int argc, char **argv)
{
	struct buf b = BUF_INIT;

	if (argc == 2 && strcmp(argv[1], "conf") == 0)
		conf_describe(&b);
	else
		print_commands(stdout);
	fputs(buf_str(&b), stdout);
	buf_fini(&b);
	return CMD_OK;
}

int
main(int argc, char **argv)
{
	const char *called = argc > 0 ? strrchr(argv[0], '/') : NULL;

	called = called != NULL ? called + 1 : argc > 0 ? argv[0] : "";
	for (unsigned i = 0; i < N_HELPERS; i++)
		if (strcmp(helpers[i].name, called) == 0)
			return helpers[i].run(argc, argv);
	if (argc < 2) {
		print_commands(stderr);
		return CMD_USAGE;
	}
	for (unsigned i = 0; i < N_COMMANDS; i++)
		if (strcmp(commands[i].name, argv[1]) == 0)
			return commands[i].run(argc - 1, argv + 1);
	fprintf(stderr, "twinspool: no command \"%s\"; try `twinspool help`\n",
		argv[1]);
	return CMD_USAGE;
}
