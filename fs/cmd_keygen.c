/*
 * How it works: makes the key and certificate of a state folder, or finds those that are there,
 * and prints the fingerprint alone on standard output, so that a script can put it into the
 * peer's configuration.
 */
#include "fs/cmd.h"
#include "meta/base/err.h"
#include "meta/base/log.h"
#include "sync/keygen.h"

#include <stdio.h>

int
cmd_keygen(int argc, char **argv)
{
	char print[KEYGEN_PRINT_LEN];
	int rc;

	if (argc != 2 || argv[1][0] == '-') {
		fputs("usage: twinspool keygen STATE-FOLDER\n", stderr);
		return CMD_USAGE;
	}
	log_open("twinspool", false, LOG_LEVEL_INFO);
	rc = keygen_make(argv[1], print);
	if (rc == ERR_EXISTS && print[0] != '\0')
		fputs("twinspool: there is a certificate already, it stays\n", stderr);
	else if (rc != 0)
		return CMD_FAIL;
	puts(print);
	return fflush(stdout) == 0 ? CMD_OK : CMD_FAIL;
}
