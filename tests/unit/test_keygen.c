#include "meta/base/err.h"
#include "sync/keygen.h"
#include "tests/lib/t.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char key[600], cert[600], print[KEYGEN_PRINT_LEN], again[KEYGEN_PRINT_LEN];

static const char *
state_folder(void)
{
	static char state[512];

	snprintf(state, sizeof(state), "%s/state", t_tmpdir());
	snprintf(key, sizeof(key), "%s/key.pem", state);
	snprintf(cert, sizeof(cert), "%s/cert.pem", state);
	return state;
}

static int
mode_of(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 ? (int)(st.st_mode & 07777) : -1;
}

static void
overwrite(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	if (f != NULL) {
		fputs(text, f);
		fclose(f);
	}
}

TEST(made_once)
{
	const char *state = state_folder();
	mode_t old = umask(0);

	int rc = keygen_make(state, print);
	umask(old);
	CHECK_EQ(rc, 0);
	CHECK_EQ(mode_of(state), 0700);
	CHECK_EQ(mode_of(key), 0600);
	CHECK_EQ(mode_of(cert), 0644);
	CHECK_EQ(strlen(print), KEYGEN_PRINT_LEN - 1);
	CHECK(strncmp(print, "sha256:", 7) == 0);
	CHECK_EQ(keygen_make(state, again), ERR_EXISTS);
	CHECK_STR(again, print);
}

/* What openssl(1) says of the same certificate. */
TEST(fingerprint_is_of_the_der)
{
	char cmd[2048], hex[128] = "";

	CHECK_EQ(keygen_make(state_folder(), print), 0);
	snprintf(cmd, sizeof(cmd),
		"openssl x509 -in '%s' -outform DER | sha256sum | cut -d' ' -f1", cert);
	FILE *p = popen(cmd, "r");
	CHECK(p != NULL);
	bool read = fgets(hex, sizeof(hex), p) != NULL;
	pclose(p);
	CHECK(read);
	hex[strcspn(hex, "\n")] = '\0';
	CHECK_STR(hex, print + 7);
}

TEST(two_nodes_differ)
{
	char other[600];

	CHECK_EQ(keygen_make(state_folder(), print), 0);
	snprintf(other, sizeof(other), "%s/other", t_tmpdir());
	CHECK_EQ(keygen_make(other, again), 0);
	CHECK(strcmp(print, again) != 0);
}

TEST(a_key_alone_gets_its_certificate)
{
	const char *state = state_folder();
	struct stat before, after;

	CHECK_EQ(keygen_make(state, print), 0);
	CHECK_EQ(stat(key, &before), 0);
	CHECK_EQ(unlink(cert), 0);
	CHECK_EQ(keygen_make(state, again), 0);
	CHECK(strcmp(print, again) != 0);
	CHECK_EQ(stat(key, &after), 0);
	CHECK_EQ(before.st_ino, after.st_ino);
}

TEST(what_is_there_is_not_touched)
{
	const char *state = state_folder();
	struct stat before, after;

	CHECK_EQ(keygen_make(state, print), 0);
	CHECK_EQ(unlink(key), 0);
	t_expect_log("certificate without its key");
	CHECK_EQ(keygen_make(state, again), ERR_MANGLED);
	CHECK(access(key, F_OK) != 0);
	overwrite(key, "not a key");
	CHECK_EQ(stat(key, &before), 0);
	t_expect_log("keygen failed: bytes do not parse");
	CHECK_EQ(keygen_make(state, again), ERR_MANGLED);
	CHECK_EQ(stat(key, &after), 0);
	CHECK_EQ(after.st_size, before.st_size);
	overwrite(cert, "");
	t_expect_log("keygen failed: bytes do not parse");
	CHECK_EQ(keygen_make(state, again), ERR_MANGLED);
}

TEST(no_folder)
{
	char far[600];

	snprintf(far, sizeof(far), "%s/a/b", t_tmpdir());
	t_expect_log("keygen failed: not found");
	CHECK_EQ(keygen_make(far, print), ERR_NOTFOUND);
}

T_MAIN
