/*
 * zip.h - one deflate stream per direction over the whole connection.
 *
 * Raw deflate with a dictionary of our own (bits of mail headers), so that the first message
 * compresses too, and every later one against those before. A burst ends with a partial flush:
 * the receiver gets every byte of it, at the price of ten bits.
 *
 * Owns     the zlib states: 270 KB for a struct zip_out, 45 KB for a struct zip_in.
 * Threads  one at a time per object.
 * Errors   ERR_NOMEM; ERR_PROTO from zip_in_add when the bytes are no deflate stream, or end it.
 */
#ifndef SYNC_ZIP_H
#define SYNC_ZIP_H

#include "meta/base/buf.h"

struct zip_out;
struct zip_in;

int zip_out_open(struct zip_out **out);
void zip_out_close(struct zip_out *z);
/* How much time a byte on the line is worth. */
enum zip_effort { ZIP_NONE, ZIP_FAST, ZIP_BEST };
/* Deflates n bytes behind what is in out. flush: let the receiver have all of it. After a
 * failure the stream is of no use. */
int zip_out_add(struct zip_out *z, const void *p, size_t n, bool flush,
	enum zip_effort effort, struct buf *out);

int zip_in_open(struct zip_in **out);
void zip_in_close(struct zip_in *z);
/* Inflates behind what is in out until the input is used up or room bytes were added, whichever
 * is first: a small input that inflates to much is given out in steps that the caller chooses.
 * *used_out is how much of the input was used; when *full_out, call again with the rest (even
 * none), for there may be more. */
int zip_in_add(struct zip_in *z, const void *p, size_t n, size_t room, struct buf *out,
	size_t *used_out, bool *full_out);

#endif
