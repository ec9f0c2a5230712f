/*
 * An entry is claimed by its state, filled, and only then seen by others. Between "seen here" and
 * "gone from its slot" a request is in both places: a server that dies there leaves two of it, and
 * the kernel takes only the first answer.
 */
#include "fs/park.h"

#include <stdbool.h>
#include <string.h>

enum { FREE, CLAIMED, PARKED };

bool
park_put(struct park *p, uint64_t unique, const void *request, size_t len)
{
	if (len > PARK_REQUEST)
		return false;
	for (int i = 0; i < PARK_MAX; i++) {
		struct park_one *o = &p->one[i];
		uint32_t was = FREE;

		if (atomic_load_explicit(&o->state, memory_order_relaxed) != FREE ||
			!atomic_compare_exchange_strong(&o->state, &was, CLAIMED))
			continue;
		memcpy(o->request, request, len);
		o->len = (uint32_t)len;
		atomic_store(&o->unique, unique);
		atomic_store_explicit(&o->state, PARKED, memory_order_release);
		return true;
	}
	return false;
}

int
park_find(struct park *p, uint64_t unique)
{
	for (int i = 0; i < PARK_MAX; i++)
		if (atomic_load_explicit(&p->one[i].state, memory_order_acquire) ==
				PARKED &&
			atomic_load(&p->one[i].unique) == unique)
			return i;
	return -1;
}

struct iovec
park_answer(struct park *p, int i, const struct iovec *iov, int count)
{
	struct park_one *o = &p->one[i];
	size_t n = 0;

	for (int k = 0; k < count; k++) {
		size_t part = iov[k].iov_len;

		if (part > PARK_REPLY - n)
			part = PARK_REPLY - n;
		memcpy(o->reply + n, iov[k].iov_base, part);
		n += part;
	}
	return (struct iovec){ o->reply, n };
}

void
park_free(struct park *p, int i)
{
	atomic_store_explicit(&p->one[i].state, FREE, memory_order_release);
}

int
park_next(struct park *p, int i)
{
	for (; i < PARK_MAX; i++) {
		uint32_t state = atomic_load(&p->one[i].state);

		if (state == PARKED)
			return i;
		if (state == CLAIMED)
			park_free(p, i);
	}
	return -1;
}

size_t
park_get(const struct park *p, int i, void *request, size_t size)
{
	const struct park_one *o = &p->one[i];

	if (o->len > size || o->len > PARK_REQUEST)
		return 0;
	memcpy(request, o->request, o->len);
	return o->len;
}
