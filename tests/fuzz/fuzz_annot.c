/* Any bytes as an annotation, of a message or of a mailbox: one byte says how long the key is. */
#include "meta/base/buf.h"
#include "meta/db.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

struct pair {
	const uint8_t *key, *val;
	size_t klen, vlen;
};

static void
of_message(const struct pair *x)
{
	struct buf k = BUF_INIT, v = BUF_INIT;
	struct db_annot a, b;

	if (db_annot_decode(x->key, x->klen, x->val, x->vlen, &a) != 0)
		return;
	db_annot_encode(&a, &k, &v);
	if (k.len != x->klen || memcmp(k.data, x->key, k.len) != 0)
		abort();
	if (db_annot_decode(k.data, k.len, v.data, v.len, &b) != 0 || a.uid != b.uid ||
		a.value_len != b.value_len || a.modseq != b.modseq ||
		a.flags != b.flags || memcmp(a.value, b.value, a.value_len) != 0)
		abort();
	buf_fini(&k);
	buf_fini(&v);
}

/* The key is three strings that fill it, in their order; the value lies in its bytes. */
static void
of_mailbox(const struct pair *x)
{
	struct db_annot a;
	const char *box, *key = (const char *)x->key;

	if (db_annot_decode_box(x->key, x->klen, x->val, x->vlen, &a, &box) != 0)
		return;
	if (a.uid != 0 || box != key || a.entry != box + strlen(box) + 1 ||
		a.entry[0] == '\0' || a.userid != a.entry + strlen(a.entry) + 1 ||
		a.userid + strlen(a.userid) + 1 != key + x->klen)
		abort();
	if (a.value < x->val || a.value + a.value_len >= x->val + x->vlen ||
		a.value[a.value_len] != 0)
		abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	if (n == 0)
		return 0;
	size_t klen = p[0] < n ? p[0] : n - 1;
	struct pair x = { p + 1, p + 1 + klen, klen, n - 1 - klen };
	of_message(&x);
	of_mailbox(&x);
	return 0;
}
