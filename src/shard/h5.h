/* libhdf5 under one process-wide lock: Debian's serial build is not thread-safe. Everything that enters libhdf5, in
 * whatever stage, does so between ebb_h5_lock and ebb_h5_unlock. */
#ifndef EBB_SHARD_H5_H
#define EBB_SHARD_H5_H

#include <ebb/base.h>
#include <hdf5.h>

#define EBB_H5_ZSTD 32015 /* registered filter id of zstd */

/* Not recursive. Registers our zstd filter on first use and silences libhdf5's printing until the unlock. */
void ebb_h5_lock(void);
void ebb_h5_unlock(void);

/* Record what libhdf5's error stack says: "PATH: cannot VERB: reason". A full disk gives EBB_ENOSPC, and so on. */
ebb_status_t ebb_h5_error(const char *path, const char *verb);

/* The calls below expect the lock to be held. */

/* Scalar attribute or array of UTF-8 strings of variable length, as AnnData wants them. */
ebb_status_t ebb_h5_write_text(hid_t object, const char *path, const char *name, const char *text);
ebb_status_t ebb_h5_write_texts(hid_t object, const char *path, const char *name, int n, const char *const *text);
ebb_status_t ebb_h5_write_i64s(hid_t object, const char *path, const char *name, int n, const int64_t *value);
/* encoding-type and encoding-version. */
ebb_status_t ebb_h5_write_encoding(hid_t object, const char *path, const char *type, const char *version);
/* Text of a string attribute (fixed or variable length) into text[size]; false if absent or no string. */
bool ebb_h5_read_text(hid_t object, const char *name, char *text, size_t size);

/* The zstd filter, also built as a plug-in of its own. */
#ifndef EBB_H5_PLUGIN
extern const H5Z_class2_t ebb_h5_zstd_filter;
#endif

#endif
