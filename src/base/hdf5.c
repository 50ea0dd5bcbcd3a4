/* The lock of libhdf5; base itself does not use that library. */
#include "base/hdf5.h"

#include <pthread.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

void ebb_hdf5_lock(void)
{
    pthread_mutex_lock(&mutex);
}

void ebb_hdf5_unlock(void)
{
    pthread_mutex_unlock(&mutex);
}
