/*
 * link_tls.c - a link over TCP and TLS 1.3, by OpenSSL.
 *
 * Trust: no certificate authority, no names, no dates. The library's chain check is replaced by
 * one comparison: is the SHA-256 of the certificate that the peer shows one that we were told?
 * TLS 1.3 makes the peer sign the handshake with that certificate's key, so whoever passes holds
 * the key. There are no tickets and no resumption, hence no way around the comparison.
 *
 * The library reads and writes through a BIO of our own: recv and send with MSG_NOSIGNAL (a lost
 * connection must not raise SIGPIPE in a mount), counting what goes over the wire.
 *
 * States of a link: connecting (TCP) -> shaking -> open -> failed. The first failure is kept with
 * its words and answers every later call.
 */
#include "sync/link.h"
#include "meta/base/clock.h"
#include "meta/base/err.h"
#include "meta/base/hash.h"
#include "meta/base/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/tcp.h> /* its tcp_info is the whole one */
#include <netdb.h>
#include <netinet/in.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PINS_MAX = 256 };

struct link_tls {
	SSL_CTX *ctx;
	BIO_METHOD *method;
	uint8_t pins[PINS_MAX][LINK_PRINT_LEN];
	unsigned n_pins;
};

struct tls {
	struct link link; /* first: a struct link is a struct tls */
	struct link_tls *of;
	SSL *ssl;
	bool dialled, connected, greeted;
	bool pinned;
	uint8_t pin[LINK_PRINT_LEN];
	int failed; /* the first error */
	int sys; /* errno of the last recv or send that failed */
};

/* --- our BIO ------------------------------------------------------------------------- */

static int
bio_write(BIO *bio, const char *p, int n)
{
	struct tls *t = BIO_get_data(bio);
	ssize_t done;

	BIO_clear_retry_flags(bio);
	do
		done = send(t->link.fd, p, (size_t)n, MSG_NOSIGNAL);
	while (done < 0 && errno == EINTR);
	if (done >= 0) {
		t->link.sent += (uint64_t)done;
		return (int)done;
	}
	if (errno == EAGAIN || errno == EWOULDBLOCK)
		BIO_set_retry_write(bio);
	else
		t->sys = errno;
	return -1;
}

static int
bio_read(BIO *bio, char *p, int n)
{
	struct tls *t = BIO_get_data(bio);
	ssize_t done;

	BIO_clear_retry_flags(bio);
	do
		done = recv(t->link.fd, p, (size_t)n, 0);
	while (done < 0 && errno == EINTR);
	if (done >= 0) {
		t->link.got += (uint64_t)done;
		return (int)done;
	}
	if (errno == EAGAIN || errno == EWOULDBLOCK)
		BIO_set_retry_read(bio);
	else
		t->sys = errno;
	return -1;
}

static long
bio_ctrl(BIO *bio, int what, long num, void *ptr)
{
	(void)bio, (void)num, (void)ptr;
	return what == BIO_CTRL_FLUSH;
}

static BIO_METHOD *
bio_method(void)
{
	BIO_METHOD *m = BIO_meth_new(
		BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "twinspool link");

	if (m == NULL)
		return NULL;
	BIO_meth_set_write(m, bio_write);
	BIO_meth_set_read(m, bio_read);
	BIO_meth_set_ctrl(m, bio_ctrl);
	return m;
}

/* --- certificates -------------------------------------------------------------------- */

static int
print_of(X509 *cert, uint8_t print_out[LINK_PRINT_LEN])
{
	unsigned char *der = NULL;
	int n = i2d_X509(cert, &der);

	if (n < 0)
		return ERR_NOMEM;
	hash_sha256(der, (size_t)n, print_out);
	OPENSSL_free(der);
	return 0;
}

static bool
let_in(const struct tls *t, const uint8_t print[LINK_PRINT_LEN])
{
	if (t->pinned)
		return memcmp(print, t->pin, LINK_PRINT_LEN) == 0;
	for (unsigned i = 0; i < t->of->n_pins; i++)
		if (memcmp(print, t->of->pins[i], LINK_PRINT_LEN) == 0)
			return true;
	return false;
}

/* Stands for the library's chain check: 1 lets the peer in. */
static int
check_cert(X509_STORE_CTX *store, void *arg)
{
	SSL *ssl =
		X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
	struct tls *t = SSL_get_app_data(ssl);
	X509 *cert = X509_STORE_CTX_get0_cert(store);
	char hex[2 * LINK_PRINT_LEN + 1];

	(void)arg;
	X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REJECTED);
	if (cert == NULL || print_of(cert, t->link.print) != 0)
		return 0;
	if (!let_in(t, t->link.print)) {
		hash_hex(t->link.print, LINK_PRINT_LEN, hex);
		snprintf(t->link.reason, sizeof(t->link.reason),
			"the peer's certificate is not one we know: sha256:%s", hex);
		t->failed = ERR_CERT;
		return 0;
	}
	X509_STORE_CTX_set_error(store, X509_V_OK);
	return 1;
}

static const char *
library_text(void)
{
	const char *text = ERR_reason_error_string(ERR_peek_last_error());

	return text != NULL ? text : "no reason given";
}

static int
load(struct link_tls *tls, const char *state)
{
	char cert[4096], key[4096];
	struct stat st;

	if (snprintf(cert, sizeof(cert), "%s/cert.pem", state) >= (int)sizeof(cert) ||
		snprintf(key, sizeof(key), "%s/key.pem", state) >= (int)sizeof(key))
		return ERR_LIMIT;
	if (stat(key, &st) != 0 || access(cert, R_OK) != 0) {
		log_err("link: no key or certificate: folder=%s error=\"%s\" "
			"cure=\"run "
			"twinspool keygen\"",
			state, strerror(errno));
		return ERR_NOTFOUND;
	}
	if ((st.st_mode & 077) != 0) {
		log_err("link: others can read the key: file=%s mode=%03o", key,
			st.st_mode & 0777);
		return ERR_ACCESS;
	}
	ERR_clear_error();
	if (SSL_CTX_use_certificate_file(tls->ctx, cert, SSL_FILETYPE_PEM) != 1 ||
		SSL_CTX_use_PrivateKey_file(tls->ctx, key, SSL_FILETYPE_PEM) != 1 ||
		SSL_CTX_check_private_key(tls->ctx) != 1) {
		log_err("link: key and certificate cannot be used: folder=%s "
			"error=\"%s\"",
			state, library_text());
		return ERR_CERT;
	}
	return 0;
}

int
link_tls_open(const char *state, struct link_tls **out)
{
	struct link_tls *tls = calloc(1, sizeof(*tls));
	int rc = ERR_NOMEM;

	*out = NULL;
	if (tls == NULL)
		return ERR_NOMEM;
	tls->method = bio_method();
	tls->ctx = SSL_CTX_new(TLS_method());
	if (tls->method == NULL || tls->ctx == NULL)
		goto out;
	if (SSL_CTX_set_min_proto_version(tls->ctx, TLS1_3_VERSION) != 1 ||
		SSL_CTX_set_num_tickets(tls->ctx, 0) != 1)
		goto out;
	SSL_CTX_set_session_cache_mode(tls->ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_options(tls->ctx, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
	SSL_CTX_set_mode(tls->ctx,
		SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_verify(
		tls->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	SSL_CTX_set_cert_verify_callback(tls->ctx, check_cert, NULL);
	rc = load(tls, state);
	if (rc != 0)
		goto out;
	*out = tls;
	tls = NULL;
out:
	link_tls_close(tls);
	return rc;
}

void
link_tls_close(struct link_tls *tls)
{
	if (tls == NULL)
		return;
	SSL_CTX_free(tls->ctx);
	BIO_meth_free(tls->method);
	free(tls);
}

int
link_tls_pin(struct link_tls *tls, const uint8_t print[LINK_PRINT_LEN])
{
	if (tls->n_pins == PINS_MAX)
		return ERR_LIMIT;
	memcpy(tls->pins[tls->n_pins++], print, LINK_PRINT_LEN);
	return 0;
}

/* --- the stream ---------------------------------------------------------------------- */

static int
fail(struct tls *t, int code, const char *what, const char *why)
{
	if (t->failed == 0) {
		t->failed = code;
		snprintf(t->link.reason, sizeof(t->link.reason), "%s: %s", what, why);
	}
	ERR_clear_error();
	return t->failed;
}

/* An alert that says that the peer did not like our certificate. */
static bool
cert_alert(int reason)
{
	return reason == SSL_R_SSLV3_ALERT_BAD_CERTIFICATE ||
	       reason == SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN ||
	       reason == SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED ||
	       reason == SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED ||
	       reason == SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE ||
	       reason == SSL_R_TLSV1_ALERT_UNKNOWN_CA ||
	       reason == SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED;
}

/* What a call of the library that did not succeed means: 0 (later) or final. */
static int
outcome(struct tls *t, int ret, const char *what)
{
	unsigned long e = ERR_peek_last_error();

	switch (SSL_get_error(t->ssl, ret)) {
	case SSL_ERROR_WANT_READ:
		t->link.wants = POLLIN;
		return 0;
	case SSL_ERROR_WANT_WRITE:
		t->link.wants = POLLOUT;
		return 0;
	case SSL_ERROR_ZERO_RETURN:
		return fail(t, ERR_LINK, what, "closed by the peer");
	case SSL_ERROR_SYSCALL:
		return fail(t, ERR_LINK, what,
			t->sys != 0 ? strerror(t->sys) : "closed by the peer");
	}
	if (t->failed != 0) /* by check_cert */
		return fail(t, t->failed, what, "");
	if (ERR_GET_REASON(e) == SSL_R_UNEXPECTED_EOF_WHILE_READING)
		return fail(t, ERR_LINK, what, "closed by the peer");
	if (cert_alert(ERR_GET_REASON(e)))
		return fail(
			t, ERR_CERT, what, "the peer does not accept our certificate");
	return fail(t, ERR_PROTO, what, library_text());
}

/* 0 with connected set or not, or ERR_LINK. */
static int
connect_done(struct tls *t)
{
	struct sockaddr_storage peer;
	socklen_t len = sizeof(t->sys);

	if (getsockopt(t->link.fd, SOL_SOCKET, SO_ERROR, &t->sys, &len) != 0)
		t->sys = errno;
	if (t->sys != 0)
		return fail(t, ERR_LINK, "connect", strerror(t->sys));
	len = sizeof(peer);
	if (getpeername(t->link.fd, (struct sockaddr *)&peer, &len) == 0)
		t->connected = true;
	else
		t->link.wants = POLLOUT;
	return 0;
}

static int
tls_greet(struct link *l, bool *done_out)
{
	struct tls *t = (struct tls *)l;
	int rc;

	if (t->failed != 0)
		return t->failed;
	l->wants = 0;
	if (!t->connected) {
		rc = connect_done(t);
		if (rc != 0 || !t->connected)
			return rc;
	}
	ERR_clear_error();
	rc = SSL_do_handshake(t->ssl);
	if (rc != 1)
		return outcome(t, rc, "TLS handshake");
	t->greeted = true;
	*done_out = true;
	return 0;
}

static int
tls_read(struct link *l, void *p, size_t n, size_t *n_out)
{
	struct tls *t = (struct tls *)l;
	int rc;

	if (t->failed != 0)
		return t->failed;
	l->wants = 0;
	ERR_clear_error();
	rc = SSL_read_ex(t->ssl, p, n, n_out);
	return rc == 1 ? 0 : outcome(t, rc, "read");
}

static int
tls_write(struct link *l, const void *p, size_t n, size_t *n_out)
{
	struct tls *t = (struct tls *)l;
	int rc;

	if (t->failed != 0)
		return t->failed;
	l->wants = 0;
	ERR_clear_error();
	rc = SSL_write_ex(t->ssl, p, n, n_out);
	return rc == 1 ? 0 : outcome(t, rc, "write");
}

static uint64_t
tls_line_us(struct link *l)
{
	struct tcp_info info = { .tcpi_busy_time = 0 };
	socklen_t len = sizeof(info);

	if (getsockopt(l->fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0)
		return clock_ms() * 1000;
	return info.tcpi_busy_time - info.tcpi_rwnd_limited;
}

static void
tls_shut(struct link *l)
{
	struct tls *t = (struct tls *)l;

	ERR_clear_error();
	if (t->greeted && t->failed == 0)
		SSL_shutdown(t->ssl);
	ERR_clear_error();
	shutdown(l->fd, SHUT_WR);
}

static void
tls_close(struct link *l)
{
	struct tls *t = (struct tls *)l;

	SSL_free(t->ssl);
	if (l->fd >= 0)
		close(l->fd);
	free(t);
}

static const struct link_ops tls_ops = { tls_greet, tls_read, tls_write, tls_shut,
	tls_close, tls_line_us };

/* The other end's address for the log; empty while it is not known. */
static void
name_end(struct link *l)
{
	struct sockaddr_storage peer;
	socklen_t len = sizeof(peer);
	char host[64], port[16];

	if (getpeername(l->fd, (struct sockaddr *)&peer, &len) == 0 &&
		getnameinfo((struct sockaddr *)&peer, len, host, sizeof(host), port,
			sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) == 0)
		snprintf(l->where, sizeof(l->where), "%s:%s", host, port);
}

int
link_tls_start(struct link_tls *tls, int fd, bool dialled, const uint8_t *pin,
	struct link **out)
{
	struct tls *t = calloc(1, sizeof(*t));
	int on = 1;
	BIO *bio;

	*out = NULL;
	if (t == NULL) {
		close(fd);
		return ERR_NOMEM;
	}
	t->link.ops = &tls_ops;
	t->link.fd = fd;
	t->of = tls;
	t->dialled = dialled;
	t->pinned = pin != NULL;
	if (pin != NULL)
		memcpy(t->pin, pin, LINK_PRINT_LEN);
	/* Bursts are whole already: waiting for more would only cost time. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	name_end(&t->link);
	t->ssl = SSL_new(tls->ctx);
	bio = t->ssl != NULL ? BIO_new(tls->method) : NULL;
	if (bio == NULL) {
		tls_close(&t->link);
		return ERR_NOMEM;
	}
	BIO_set_data(bio, t);
	BIO_set_init(bio, 1);
	SSL_set_bio(t->ssl, bio, bio);
	SSL_set_app_data(t->ssl, t);
	if (dialled)
		SSL_set_connect_state(t->ssl);
	else
		SSL_set_accept_state(t->ssl);
	*out = &t->link;
	return 0;
}
