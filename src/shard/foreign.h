/* Within the opening of foreign files: foreign.c indexes arrays, targets.c finds and reads targets. */
#ifndef EBB_SHARD_FOREIGN_H
#define EBB_SHARD_FOREIGN_H

#include "shard/h5.h"
#include "shard/layout.h"

/* A file being opened. */
typedef struct foreign {
    const char *path;
    hid_t file;
    hsize_t user_block;
    int64_t bytes;
    bool *by_columns;
    int64_t n_targets; /* one for each row; of a matrix by columns, its columns here */
    ebb_dataset_t *ds;
    char **categories; /* (n_categories) names of the target's codes, owned; NULL: the values are not codes */
    int64_t n_categories;
    char **text; /* (n_text) a target of strings, owned */
    int64_t n_text;
} foreign_t;

/* With the lock held. */
ebb_status_t ebb_foreign_index(foreign_t *f, const char *name, ebb_role_t role);
bool ebb_foreign_has(hid_t file, const char *name, H5I_type_t kind); /* H5I_BADID: of any kind */
ebb_status_t ebb_foreign_index_targets(foreign_t *f, const char *name);
/* Without it. */
ebb_status_t ebb_foreign_read_targets(foreign_t *f);
void ebb_foreign_clear(foreign_t *f);

#endif
