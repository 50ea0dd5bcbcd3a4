/* What the writer and the reader of a checkpoint's file share: the head, and libhdf5 under one lock on a descriptor. */
#ifndef EBB_CHECKPOINT_DEVICE_H
#define EBB_CHECKPOINT_DEVICE_H

#include "checkpoint/internal.h"

enum { HEAD = 512, MAX_PARAMS = 1 << 20, MAX_STATES = 16, N_TEXTS = 3 };

/* The first bytes of a file. */
typedef struct head {
    char magic[8];
    uint64_t version, bytes, xxh3; /* of the file; xxh3: of bytes HEAD .. bytes */
    char note[HEAD - 40];
    uint64_t self; /* XXH3 of the head up to here */
} ebb_ckpt_head_t;
_Static_assert(sizeof(ebb_ckpt_head_t) == HEAD, "the head is the user block of the HDF5 file");

extern const char ebb_ckpt_magic[8];
extern const char *const ebb_ckpt_text_names[N_TEXTS];

static inline char **ebb_ckpt_meta_text(ebb_checkpoint_meta_t *meta, int i)
{
    return i == 0 ? &meta->config : i == 1 ? &meta->progress : &meta->dataset;
}

/* Around calls into libhdf5. */
void ebb_ckpt_lock(void);
void ebb_ckpt_unlock(void);
/* With libhdf5's deepest reason. */
ebb_status_t ebb_ckpt_hdf5_error(ebb_status_t status, const char *path, const char *verb);

/* libhdf5 reads and writes the descriptor, or the memory, that it is given. A write that fails is remembered, not
 * reported: libhdf5 1.10 cannot let go of a file whose last write failed, and crashes when the process ends. The caller
 * looks at *error afterwards. */
typedef struct device_info {
    int fd;
    int *error;  /* errno of the first failed write; NULL: read only */
    char *image; /* not NULL: the file is made here, in `room` bytes that were all zero, and fd is not used */
    int64_t room;
    int64_t *end; /* image: bytes of the file so far */
} ebb_ckpt_device_t;

/* Access properties that make libhdf5 use the descriptor; close them. Negative when libhdf5 refuses the driver. */
hid_t ebb_ckpt_file_access(ebb_ckpt_device_t info);

/* XXH3 of bytes HEAD .. end. */
ebb_status_t ebb_ckpt_hash_body(int fd, const char *path, int64_t end, const ebb_ckpt_index_t *index, uint64_t *hash_p);
ebb_status_t ebb_ckpt_file_bytes(int fd, const char *path, int64_t *bytes_p);

#endif
