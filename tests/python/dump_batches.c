/* dump_batches DATA BATCH LANES SEED RANK RANKS EPOCHS [CURSOR]: every batch of the loader, from the cursor (bytes in
 * hexadecimal) on, as raw bytes on stdout, in the order of ebb_batch_t, each array after its size in bytes: what the
 * Python module must hand out. */
#include <ebb/ebb.h>

#include <stdio.h>
#include <stdlib.h>

static void put(const void *data, int64_t n, size_t size)
{
    int64_t bytes = data ? n * (int64_t)size : -1;
    fwrite(&bytes, sizeof bytes, 1, stdout);
    if (bytes > 0)
        fwrite(data, (size_t)bytes, 1, stdout);
}

static void put_batch(const ebb_batch_t *b, const ebb_dataset_info_t *info)
{
    int64_t head[] = {b->epoch, b->step};
    put(head, 2, sizeof head[0]);
    put(b->row, b->rows, sizeof b->row[0]);
    put(b->rowptr, b->rows + 1, sizeof b->rowptr[0]);
    put(b->col, b->nnz, sizeof b->col[0]);
    put(b->val, b->nnz, sizeof b->val[0]);
    put(b->x, b->rows * info->cols, sizeof b->x[0]);
    put(b->label, b->rows, sizeof b->label[0]);
    put(b->y, b->rows * info->target_cols, sizeof b->y[0]);
    put(b->weight, b->rows, sizeof b->weight[0]);
    put(b->lanes, b->n_lanes, sizeof b->lanes[0]);
}

static ebb_status_t restore(ebb_loader_t *loader, const char *hex)
{
    ebb_cursor_t cursor;
    for (size_t i = 0; i < sizeof cursor; i++)
        if (sscanf(hex + 2 * i, "%2hhx", (unsigned char *)&cursor + i) != 1)
            return EBB_FAIL(EBB_EUSAGE, "cursor %s has not %zu bytes", hex, sizeof cursor);
    return ebb_loader_restore(loader, &cursor);
}

static ebb_status_t dump(const ebb_dataset_t *ds, const ebb_loader_options_t *options, int epochs, const char *cursor)
{
    const ebb_batch_t *batch;
    ebb_loader_t *loader;
    EBB_TRY(ebb_loader_create(ds, options, &loader));
    ebb_status_t status = cursor ? restore(loader, cursor) : EBB_OK;
    if (status != EBB_OK)
        epochs = 0;
    for (int e = 0; e < epochs; e++) {
        while ((status = ebb_loader_acquire(loader, &batch)) == EBB_OK) {
            put_batch(batch, ebb_dataset_info(ds));
            ebb_loader_release(loader, batch);
        }
        if (status != EBB_END)
            break;
    }
    ebb_loader_destroy(loader);
    return status == EBB_END ? EBB_OK : status;
}

int main(int argc, char **argv)
{
    ebb_dataset_t *ds;
    if (argc < 8 || ebb_dataset_open(argv[1], NULL, &ds) != EBB_OK) {
        fprintf(stderr, "dump_batches: %s\n", ebb_error()->message);
        return 1;
    }
    ebb_loader_options_t options = {.order = {.batch = atoll(argv[2]), .lanes = atoi(argv[3]), .shuffle = true}};
    options.order.seed = strtoull(argv[4], NULL, 10);
    int32_t lane[1024], rank = atoi(argv[5]), ranks = atoi(argv[6]);
    int32_t first = ebb_lane_first(options.order.lanes, rank, ranks);
    options.n_lanes = ebb_lane_first(options.order.lanes, rank + 1, ranks) - first;
    for (int32_t i = 0; i < options.n_lanes; i++)
        lane[i] = first + i;
    options.lanes = lane;
    ebb_status_t status = dump(ds, &options, atoi(argv[7]), argc > 8 ? argv[8] : NULL);
    if (status != EBB_OK)
        fprintf(stderr, "dump_batches: %s\n", ebb_error()->message);
    ebb_dataset_close(ds);
    return ebb_status_exit_code(status);
}
