/* Named, counted, 64-byte aligned allocations. */
#ifndef EBB_BASE_ALLOC_H
#define EBB_BASE_ALLOC_H

#include <ebb/base.h>

/* Zeroed. EBB_ENOMEM names what and how much. bytes 0 gives a valid pointer. Large blocks ask for huge pages. */
ebb_status_t ebb_alloc(const char *what, size_t bytes, void **ptr_p);
/* Grow *ptr_p to hold at least `need` elements; *cap_p is what it holds now. Contents are kept, new room not zeroed. */
ebb_status_t ebb_grow(const char *what, void **ptr_p, int64_t *cap_p, int64_t need, size_t element);
void ebb_free(void *ptr);
char *ebb_strdup(const char *text); /* NULL when out of memory; free with ebb_free */

/* Calls of ebb_alloc and ebb_grow that allocated, since the process began. */
int64_t ebb_alloc_count(void);
/* For tests: let n more allocations succeed, then fail one; n < 0: never fail. */
void ebb_alloc_fail_after(int64_t n);

/* EBB_NEW(what, &p): one zeroed object; EBB_NEW_ARRAY(what, n, &p). */
#define EBB_NEW(what, pp)          ebb_alloc((what), sizeof **(pp), (void **)(pp))
#define EBB_NEW_ARRAY(what, n, pp) ebb_alloc((what), (size_t)(n) * sizeof **(pp), (void **)(pp))

#endif
