/* Any bytes as a record of mailboxes.db; and as cyrus.header, where what decodes must decode the
 * same after encoding. */
#include "meta/base/buf.h"
#include "meta/header.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static int
differ(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a != b : strcmp(a, b) != 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct header a, b;
	struct buf out = BUF_INIT;

	if (header_decode_entry(p, n, &a) == 0)
		header_fini(&a);
	if (header_decode(p, n, &a) != 0)
		return 0;
	if (header_encode(&a, &out) != 0 || header_decode(out.data, out.len, &b) != 0)
		abort();
	if (a.old_form != b.old_form || differ(a.type, b.type) ||
		differ(a.name, b.name) || differ(a.uniqueid, b.uniqueid) ||
		differ(a.quotaroot, b.quotaroot) || a.n_acl != b.n_acl)
		abort();
	for (size_t i = 0; i < HEADER_MAX_FLAGS; i++)
		if (differ(a.flags[i], b.flags[i]))
			abort();
	for (size_t i = 0; i < a.n_acl; i++)
		if (differ(a.acl[i].id, b.acl[i].id) ||
			differ(a.acl[i].rights, b.acl[i].rights))
			abort();
	header_fini(&a);
	header_fini(&b);
	buf_fini(&out);
	return 0;
}
