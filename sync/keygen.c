/*
 * How it works: both files are written whole under a temporary name, synced and linked to their
 * own name, which fails if that exists; the key comes first. So a crash leaves nothing, or a key
 * without certificate, and the next call makes a certificate for that key.
 */
#include "sync/keygen.h"
#include "meta/base/err.h"
#include "meta/base/hash.h"
#include "meta/base/log.h"

#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEY_NAME "key.pem"
#define CERT_NAME "cert.pem"

enum { SERIAL_BITS = 127 };

static int
fingerprint(X509 *cert, char out[KEYGEN_PRINT_LEN])
{
	uint8_t *der = NULL, sum[SHA256_LEN];
	int n = i2d_X509(cert, &der);

	if (n <= 0)
		return ERR_NOMEM;
	hash_sha256(der, (size_t)n, sum);
	memcpy(out, "sha256:", 7);
	hash_hex(sum, sizeof(sum), out + 7);
	OPENSSL_free(der);
	return 0;
}

/* A file of the folder for reading; NULL with errno. */
static FILE *
open_in(int dir, const char *name)
{
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	FILE *f = fd >= 0 ? fdopen(fd, "r") : NULL;

	if (f == NULL && fd >= 0)
		close(fd);
	return f;
}

static int
read_cert(int dir, X509 **out)
{
	FILE *f = open_in(dir, CERT_NAME);

	*out = NULL;
	if (f == NULL)
		return err_from_errno(errno);
	*out = PEM_read_X509(f, NULL, NULL, NULL);
	fclose(f);
	return *out != NULL ? 0 : ERR_MANGLED;
}

static int
read_key(int dir, EVP_PKEY **out)
{
	FILE *f = open_in(dir, KEY_NAME);
	char no_phrase[] = "";

	*out = NULL;
	if (f == NULL)
		return err_from_errno(errno);
	/* An empty pass phrase, so that an encrypted key fails and never asks at a terminal. */
	*out = PEM_read_PrivateKey(f, NULL, NULL, no_phrase);
	fclose(f);
	return *out != NULL ? 0 : ERR_MANGLED;
}

/* Writes what is in mem to a new file of the folder; ERR_EXISTS if there is one. */
static int
write_new(int dir, const char *name, mode_t mode, BIO *mem)
{
	char temp[64], *data;
	long len = BIO_get_mem_data(mem, &data);
	int fd, rc = 0;

	snprintf(temp, sizeof(temp), "%s.%ld", name, (long)getpid());
	unlinkat(dir, temp, 0);
	fd = openat(
		dir, temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_from_errno(errno);
	for (long done = 0; done < len;) {
		ssize_t n = write(fd, data + done, (size_t)(len - done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			rc = err_from_errno(errno);
			goto out;
		}
		done += n;
	}
	if (fchmod(fd, mode) < 0 || fsync(fd) < 0 ||
		linkat(dir, temp, dir, name, 0) < 0)
		rc = err_from_errno(errno);
out:
	close(fd);
	unlinkat(dir, temp, 0);
	if (rc == 0 && fsync(dir) < 0)
		rc = err_from_errno(errno);
	return rc;
}

static int
make_key(int dir, EVP_PKEY **out)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	BIO *mem = BIO_new(BIO_s_secmem());
	int rc = ERR_NOMEM;

	*out = NULL;
	if (key != NULL && mem != NULL &&
		PEM_write_bio_PKCS8PrivateKey(mem, key, NULL, NULL, 0, NULL, NULL) == 1)
		rc = write_new(dir, KEY_NAME, 0600, mem);
	if (rc == 0) {
		*out = key;
		key = NULL;
	}
	BIO_free(mem);
	EVP_PKEY_free(key);
	return rc;
}

/* Names itself only "twinspool": a certificate is known by its fingerprint, not by its words. */
static bool
fill_cert(X509 *cert, EVP_PKEY *key)
{
	BIGNUM *serial = BN_new();
	X509_NAME *name = X509_get_subject_name(cert);
	bool ok = serial != NULL &&
		  BN_rand(serial, SERIAL_BITS, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) ==
			  1 &&
		  BN_to_ASN1_INTEGER(serial, X509_get_serialNumber(cert)) != NULL &&
		  X509_set_version(cert, X509_VERSION_3) == 1 &&
		  ASN1_TIME_set_string(X509_getm_notBefore(cert), "20200101000000Z") ==
			  1 &&
		  ASN1_TIME_set_string(X509_getm_notAfter(cert), "99991231235959Z") ==
			  1 &&
		  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
			  (const unsigned char *)"twinspool", -1, -1, 0) == 1 &&
		  X509_set_issuer_name(cert, name) == 1 &&
		  X509_set_pubkey(cert, key) == 1 &&
		  X509_sign(cert, key, EVP_sha256()) > 0;

	BN_free(serial);
	return ok;
}

static int
make_cert(int dir, EVP_PKEY *key, X509 **out)
{
	X509 *cert = X509_new();
	BIO *mem = BIO_new(BIO_s_mem());
	int rc = ERR_NOMEM;

	*out = NULL;
	if (cert != NULL && mem != NULL && fill_cert(cert, key) &&
		PEM_write_bio_X509(mem, cert) == 1)
		rc = write_new(dir, CERT_NAME, 0644, mem);
	if (rc == 0) {
		*out = cert;
		cert = NULL;
	}
	BIO_free(mem);
	X509_free(cert);
	return rc;
}

int
keygen_make(const char *state, char print_out[KEYGEN_PRINT_LEN])
{
	EVP_PKEY *key = NULL;
	X509 *cert = NULL;
	const char *what = "folder";
	int dir = -1, rc = 0, have_key, have_cert;

	print_out[0] = '\0';
	if (mkdir(state, 0700) < 0 && errno != EEXIST)
		rc = err_from_errno(errno);
	dir = open(state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0) {
		rc = rc != 0 ? rc : err_from_errno(errno);
		goto out;
	}
	what = KEY_NAME;
	rc = have_key = read_key(dir, &key);
	if (rc == ERR_NOTFOUND)
		rc = 0;
	if (rc != 0)
		goto out;
	what = CERT_NAME;
	rc = have_cert = read_cert(dir, &cert);
	if (rc == ERR_NOTFOUND)
		rc = 0;
	if (rc != 0)
		goto out;
	if (have_cert == 0 &&
		(have_key != 0 || X509_check_private_key(cert, key) != 1)) {
		what = "certificate without its key";
		rc = ERR_MANGLED;
		goto out;
	}
	if (have_cert == 0) {
		rc = fingerprint(cert, print_out);
		rc = rc == 0 ? ERR_EXISTS : rc;
		goto out;
	}
	what = KEY_NAME;
	if (have_key != 0)
		rc = make_key(dir, &key);
	what = CERT_NAME;
	if (rc == 0)
		rc = make_cert(dir, key, &cert);
	if (rc == 0)
		rc = fingerprint(cert, print_out);
out:
	if (rc != 0 && (rc != ERR_EXISTS || print_out[0] == '\0'))
		log_err("keygen failed: %s folder=%s at=%s", err_text(rc), state, what);
	X509_free(cert);
	EVP_PKEY_free(key);
	if (dir >= 0)
		close(dir);
	return rc;
}
