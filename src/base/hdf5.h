/* The one lock around libhdf5. Debian's serial build is not thread-safe, and more than one stage uses it at once: a
 * checkpoint is written in the background while rows are read. */
#ifndef EBB_BASE_HDF5_H
#define EBB_BASE_HDF5_H

/* Not recursive. */
void ebb_hdf5_lock(void);
void ebb_hdf5_unlock(void);

#endif
