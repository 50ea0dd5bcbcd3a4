/* Runs any bytes through an importer's probe, header and parser, scan and write, as the packer would. */
#ifndef EBB_FUZZ_IMPORT_H
#define EBB_FUZZ_IMPORT_H

#include "base/alloc.h"
#include "shard/import/import.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* One pass over the bytes from `begin` on as one piece, cut in two at a boundary in the middle. */
static inline void fuzz_pass(const ebb_importer_t *importer, const uint8_t *data, int64_t begin, int64_t end,
                             ebb_block_t *block)
{
    ebb_source_t source = {.path = "fuzz", .begin = begin};
    ebb_piece_t piece = {.bytes = end - begin};
    if (ebb_alloc("piece", (size_t)piece.bytes + 64, (void **)&piece.buffer) != EBB_OK)
        return;
    memcpy(piece.buffer, data + begin, (size_t)piece.bytes);
    piece.text = piece.buffer;
    piece.text[piece.bytes] = '\n';
    importer->format->boundary(piece.text, piece.bytes, piece.bytes / 2, false);
    ebb_block_clear(block);
    block->sparse = true;
    if (ebb_block_reserve(block, 1, 1) == EBB_OK && importer->format->parse(importer, &source, &piece, block) == EBB_OK)
        for (int64_t r = 0; r < block->rows; r++)
            for (int64_t i = block->rowptr[r] + 1; i < block->rowptr[r + 1]; i++)
                if (block->col[i - 1] >= block->col[i])
                    __builtin_trap();
    ebb_error_clear();
    ebb_free(piece.buffer);
}

/* Scan, then write with the classes that the scan found. */
static inline void fuzz_text(ebb_importer_t *importer, const uint8_t *data, int64_t begin, int64_t end)
{
    ebb_target_plan_t target = {.kind = EBB_TARGET_CLASS, .cols = 1};
    ebb_block_t block = {.pass = EBB_PASS_SCAN, .target = &target};
    fuzz_pass(importer, data, begin, end, &block);
    if (ebb_labels_merge(&target.classes, &block.labels) == EBB_OK && ebb_labels_sort(&target.classes) == EBB_OK) {
        block.pass = EBB_PASS_WRITE;
        fuzz_pass(importer, data, begin, end, &block);
    }
    ebb_error_clear();
    ebb_labels_free(&target.classes);
    ebb_block_free(&block);
}

#endif
