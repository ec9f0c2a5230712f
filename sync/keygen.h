/*
 * keygen.h - a node's key and self-signed certificate, made once.
 *
 * Peers pin the SHA-256 of the certificate's DER form, so nothing else in it matters: ECDSA over
 * P-256, no end date that a mail server would live to see. key.pem is 0600, cert.pem 0644.
 * Threads: any. Not for a folder that two programs prepare at once (the second is told so).
 */
#ifndef SYNC_KEYGEN_H
#define SYNC_KEYGEN_H

#include <stddef.h>

enum { KEYGEN_PRINT_LEN = 7 + 64 + 1 }; /* "sha256:", hex, NUL */

/*
 * Makes key.pem and cert.pem in the folder state, which is created (0700) if it is missing, and
 * gives the fingerprint. 0, or ERR_EXISTS with the fingerprint of the certificate that was there
 * (nothing is changed), or ERR_IO, ERR_ACCESS, ERR_FULL, ERR_NOMEM, ERR_MANGLED (a file that was
 * there does not parse, or a certificate without its key); logged.
 */
int keygen_make(const char *state, char print_out[KEYGEN_PRINT_LEN]);

#endif
