/* Sorting and running sums by CUB, which comes with the toolkit: radix sort is stable, and all sums are of integers. */
#include "compute/cuda/cuda.h"

#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>

ebb_status_t ebb_cuda_sort(ebb_exec_t *x, int64_t n, int bits, const uint32_t *key, uint32_t *key_sorted,
                           const int32_t *value, int32_t *value_sorted)
{
    size_t bytes = 0;
    CUDA_TRY(cub::DeviceRadixSort::SortPairs(NULL, bytes, key, key_sorted, value, value_sorted, n, 0, bits, x->stream),
             "sorting by column");
    EBB_TRY(ebb_cuda_room(x, &x->sort, (int64_t)bytes, 1, "sorting by column"));
    CUDA_TRY(cub::DeviceRadixSort::SortPairs(x->sort.ptr, bytes, key, key_sorted, value, value_sorted, n, 0, bits,
                                             x->stream),
             "sorting by column");
    return EBB_OK;
}

ebb_status_t ebb_cuda_running_sum(ebb_exec_t *x, int64_t n, const int32_t *in, int32_t *out)
{
    size_t bytes = 0;
    CUDA_TRY(cub::DeviceScan::InclusiveSum(NULL, bytes, in, out, n, x->stream), "counting columns");
    EBB_TRY(ebb_cuda_room(x, &x->sort, (int64_t)bytes, 1, "counting columns"));
    CUDA_TRY(cub::DeviceScan::InclusiveSum(x->sort.ptr, bytes, in, out, n, x->stream), "counting columns");
    return EBB_OK;
}
