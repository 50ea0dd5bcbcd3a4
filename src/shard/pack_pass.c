/* A pass over the sources, piece by piece.
 *
 * A piece of a text is the records that begin within a nominal range of piece_bytes. Pieces lie in a ring of slots; the
 * crew fetches and parses those ahead while the caller's thread consumes the first, in order, so nothing depends on how
 * many threads there are. Plain files are fetched from any offset. Compressed ones are decoded forwards: the tasks take
 * turns at the stream, and every rank decodes all of it. Which rank parses a piece of the scan does not matter because
 * only sums and sets are kept of it.
 */
#include "shard/pack.h"
#include "base/alloc.h"
#include "base/file.h"

#include <pthread.h>
#include <string.h>

enum { EXTEND_BYTES = 64 * 1024, CONTEXT_BYTES = 2 };

/* One pass over one source. */
typedef struct run {
    ebb_pack_t *p;
    ebb_pass_t pass;
    ebb_source_t *source;
    int number; /* of the source */
    bool (*needed)(const ebb_pack_t *p, int64_t piece);
    int64_t next;        /* piece to submit next */
    int64_t first, last; /* slots in use: [first, last), modulo their number */
    /* sequential: whose turn it is at the stream, and the state that goes with it */
    pthread_mutex_t lock;
    pthread_cond_t turn;
    int64_t turn_of;
    bool ended;
    int64_t at;  /* stream offset of the next piece's first byte */
    char *carry; /* text: bytes read beyond the last piece */
    int64_t carry_n, carry_cap;
} run_t;

ebb_status_t ebb_pack_passes_begin(ebb_pack_t *p)
{
    p->n_slots = p->threads > 1 ? p->threads + 2 : 1;
    return EBB_NEW_ARRAY("piece slots", p->n_slots, &p->slot);
}

void ebb_pack_passes_end(ebb_pack_t *p)
{
    for (int i = 0; p->slot && i < p->n_slots; i++) {
        ebb_piece_t *piece = &p->slot[i].piece;
        if (piece->own)
            p->importer.format->release(piece);
        ebb_free(piece->buffer);
        ebb_free(piece->side);
        ebb_block_free(&p->slot[i].block);
    }
    ebb_free(p->slot);
    p->slot = NULL;
}

static ebb_status_t grow_buffer(ebb_piece_t *piece, int64_t bytes)
{
    return ebb_grow("piece of a source", (void **)&piece->buffer, &piece->capacity, bytes + 64, 1);
}

static void set_text(ebb_piece_t *piece, int64_t begin, int64_t end)
{
    piece->text = piece->buffer + begin;
    piece->bytes = end - begin;
    piece->text[piece->bytes] = '\n';
    piece->text[piece->bytes + 1] = 0;
}

static ebb_status_t too_long(const run_t *r, int64_t offset)
{
    return EBB_FAIL(
        EBB_EDATA,
        "%s: the record near byte %lld is longer than %lld bytes; raise --memory, or check that the file is %s",
        r->source->path, (long long)offset, (long long)r->p->line_limit, r->p->importer.format->what);
}

/* Read more of the stream behind buffer[0, *n_p), whose first byte is at `offset`. */
static ebb_status_t extend(run_t *r, ebb_piece_t *piece, int64_t offset, int64_t *n_p, int64_t bytes, bool *end_p)
{
    int64_t got, left = r->source->end < 0 ? INT64_MAX : r->source->end - offset - *n_p;
    if (*n_p > r->p->line_limit + r->p->piece_bytes)
        return too_long(r, offset);
    EBB_TRY(grow_buffer(piece, *n_p + bytes));
    int64_t want = bytes < left ? bytes : left;
    EBB_TRY(ebb_stream_read(r->source->stream, offset + *n_p, piece->buffer + *n_p, want, &got));
    *n_p += got;
    *end_p = got < bytes;
    return EBB_OK;
}

/* The piece of a plain text file whose records begin in the nominal range; any thread. */
static ebb_status_t fetch_text(run_t *r, ebb_piece_t *piece)
{
    const ebb_source_t *s = r->source;
    int64_t lo = s->begin + piece->number * r->p->piece_bytes, hi = lo + r->p->piece_bytes;
    int64_t before = lo - s->begin < CONTEXT_BYTES ? lo - s->begin : CONTEXT_BYTES;
    int64_t n = 0, begin = 0, end = -1, offset = lo - before, more = hi - lo + before + EXTEND_BYTES;
    bool ended = false;
    hi = hi < s->end ? hi : s->end;
    while (end < 0) {
        EBB_TRY(extend(r, piece, offset, &n, more, &ended));
        more = n;
        end = hi == s->end ? n
                           : r->p->importer.format->boundary(piece->buffer, n, hi - offset,
                                                             s->quoted && s->quoted[piece->number + 1]);
        if (end < 0 && ended)
            end = n;
    }
    if (before > 0) {
        begin = r->p->importer.format->boundary(piece->buffer, n, before, s->quoted && s->quoted[piece->number]);
        if (begin < 0 || begin >= hi - offset)
            begin = end; /* a record that began before reaches across all of this piece */
    }
    piece->offset = offset + begin;
    set_text(piece, begin, end);
    return EBB_OK;
}

static bool odd_quotes(const char *text, int64_t n)
{
    int64_t count = 0;
    for (const char *p = text; (p = memchr(p, '"', (size_t)(text + n - p))); p++)
        count++;
    return count & 1;
}

/* The next piece of a stream that is read forwards. Sets *beyond_p, with no piece, at its end. */
static ebb_status_t fetch_forward(run_t *r, ebb_piece_t *piece, bool *beyond_p)
{
    const ebb_format_t *format = r->p->importer.format;
    int64_t lo = r->at, hi = r->source->begin + (piece->number + 1) * r->p->piece_bytes, n = r->carry_n, end = -1;
    bool ended = false;
    EBB_TRY(grow_buffer(piece, n));
    if (n > 0)
        memcpy(piece->buffer, r->carry, (size_t)n);
    r->carry_n = 0;
    piece->offset = lo;
    if (lo >= hi) { /* a record that began before reaches across all of this piece */
        end = 0;
    } else if (n < hi - lo + 1) {
        EBB_TRY(extend(r, piece, lo, &n, hi - lo + EXTEND_BYTES - n, &ended));
    }
    while (end < 0) {
        if (n <= hi - lo && ended)
            end = n;
        else
            end = format->boundary(piece->buffer, n, hi - lo, format->quotes && odd_quotes(piece->buffer, hi - lo));
        if (end < 0 && ended)
            end = n;
        if (end < 0)
            EBB_TRY(extend(r, piece, lo, &n, n, &ended));
    }
    if (n == 0 && ended) {
        *beyond_p = true;
        return EBB_OK;
    }
    EBB_TRY(ebb_grow("bytes of the next piece", (void **)&r->carry, &r->carry_cap, n - end, 1));
    if (n > end)
        memcpy(r->carry, piece->buffer + end, (size_t)(n - end));
    r->carry_n = n - end;
    r->at = lo + end;
    set_text(piece, 0, end);
    return EBB_OK;
}

static int64_t rows_per_piece(const run_t *r)
{
    int64_t n = r->p->piece_bytes / (r->source->row_cost > 0 ? r->source->row_cost : 1);
    return n > 0 ? n : 1;
}

static ebb_status_t read_records(const run_t *r, ebb_stream_t *stream, int64_t begin, int64_t record,
                                 const ebb_piece_t *piece, char *buf)
{
    int64_t got, want = piece->rows * record;
    EBB_TRY(ebb_stream_read(stream, begin + piece->row0 * record, buf, want, &got));
    return got == want
               ? EBB_OK
               : EBB_FAIL(EBB_EDATA, "%s: truncated: %lld of %lld rows are missing; get the file again",
                          r->source->path, (long long)(r->source->rows - piece->row0 - got / (record > 0 ? record : 1)),
                          (long long)r->source->rows);
}

/* Rows of fixed size, and their targets from the file beside. */
static ebb_status_t fetch_rows(run_t *r, ebb_piece_t *piece)
{
    const ebb_source_t *s = r->source;
    int64_t per = rows_per_piece(r);
    piece->row0 = piece->number * per;
    piece->rows = s->rows - piece->row0 < per ? s->rows - piece->row0 : per;
    piece->bytes = 0;
    if (s->stream && s->record_bytes > 0) {
        EBB_TRY(grow_buffer(piece, piece->rows * s->record_bytes));
        piece->text = piece->buffer;
        piece->bytes = piece->rows * s->record_bytes;
        EBB_TRY(read_records(r, s->stream, s->begin, s->record_bytes, piece, piece->buffer));
    }
    if (!s->side)
        return EBB_OK;
    EBB_TRY(ebb_grow("targets of a piece", (void **)&piece->side, &piece->side_capacity,
                     piece->rows * s->side_record_bytes, 1));
    return read_records(r, s->side, s->side_begin, s->side_record_bytes, piece, piece->side);
}

static int64_t global(const run_t *r, int64_t number)
{
    return r->p->first_piece[r->number] + number;
}

static int64_t known_pieces(const run_t *r)
{
    const ebb_source_t *s = r->source;
    if (r->pass == EBB_PASS_WRITE)
        return r->p->first_piece[r->number + 1] - r->p->first_piece[r->number];
    if (!r->p->importer.format->text)
        return (s->rows + rows_per_piece(r) - 1) / rows_per_piece(r);
    return s->sequential ? INT64_MAX : (s->end - s->begin + r->p->piece_bytes - 1) / r->p->piece_bytes;
}

/* The first piece from `piece` on that goes through the crew: streams of text are passed over piece by piece. */
static int64_t next_piece(const run_t *r, int64_t piece)
{
    int64_t count = known_pieces(r);
    if (r->source->sequential && r->p->importer.format->text)
        return piece;
    while (piece < count && !r->needed(r->p, global(r, piece)))
        piece++;
    return piece;
}

/* Lines of the stream before `offset`. */
static ebb_status_t count_lines(const char *path, int64_t offset, int64_t *lines_p)
{
    ebb_stream_t *stream;
    char buf[32 * 1024];
    int64_t at = 0, got = 1;
    ebb_status_t status = EBB_OK;
    *lines_p = 0;
    EBB_TRY(ebb_stream_open(path, &stream));
    while (status == EBB_OK && at < offset && got > 0) {
        int64_t want = offset - at < (int64_t)sizeof buf ? offset - at : (int64_t)sizeof buf;
        status = ebb_stream_read(stream, at, buf, want, &got);
        for (const char *q = buf; status == EBB_OK && (q = memchr(q, '\n', (size_t)(buf + got - q))); q++)
            ++*lines_p;
        at += got;
    }
    ebb_stream_close(stream);
    return status;
}

/* Put file and line before the error of a block. */
static ebb_status_t name_place(const run_t *r, const ebb_piece_t *piece, const ebb_block_t *block)
{
    ebb_error_t error = *ebb_error();
    int64_t lines = 0;
    if (block->bad_line == 0)
        return error.status;
    ebb_error_clear();
    if (count_lines(r->source->path, piece->offset, &lines) != EBB_OK)
        ebb_error_clear();
    ebb_error_set(&error);
    if (block->bad_column > 0)
        return ebb_error_prefix("%s: line %lld, column %lld: ", r->source->path, (long long)lines + block->bad_line,
                                (long long)block->bad_column);
    return ebb_error_prefix("%s: line %lld: ", r->source->path, (long long)lines + block->bad_line);
}

static ebb_status_t change_layout(const ebb_pack_t *p, ebb_block_t *block)
{
    if (block->pass == EBB_PASS_SCAN || block->sparse == p->scan.sparse)
        return EBB_OK;
    return block->sparse ? ebb_block_to_dense(block, p->scan.cols) : ebb_block_to_sparse(block);
}

static ebb_status_t parse_piece(run_t *r, ebb_pack_slot_t *slot)
{
    ebb_pack_t *p = r->p;
    ebb_block_t *block = &slot->block;
    ebb_block_clear(block);
    block->pass = r->pass;
    block->target = &p->target;
    block->sparse = !p->importer.format->dense;
    block->cols = r->pass == EBB_PASS_WRITE ? p->scan.cols : 0;
    block->index_base = r->pass == EBB_PASS_WRITE ? p->scan.index_base : 0;
    EBB_TRY(ebb_block_reserve(block, 1, 1));
    if (p->importer.format->parse(&p->importer, r->source, &slot->piece, block) != EBB_OK)
        return name_place(r, &slot->piece, block);
    return change_layout(p, block);
}

/* Fetch the piece of a sequential source when all before it were fetched. */
static ebb_status_t fetch_in_turn(run_t *r, ebb_pack_slot_t *slot)
{
    pthread_mutex_lock(&r->lock);
    while (r->turn_of != slot->piece.number && !r->ended)
        pthread_cond_wait(&r->turn, &r->lock);
    bool ended = r->ended;
    pthread_mutex_unlock(&r->lock);
    slot->beyond = ended;
    if (ended)
        return EBB_OK;
    ebb_status_t status =
        r->p->importer.format->text ? fetch_forward(r, &slot->piece, &slot->beyond) : fetch_rows(r, &slot->piece);
    slot->position = r->source->stream ? ebb_stream_position(r->source->stream) : 0;
    pthread_mutex_lock(&r->lock);
    r->ended |= slot->beyond || status != EBB_OK;
    r->turn_of = next_piece(r, slot->piece.number + 1);
    pthread_cond_broadcast(&r->turn);
    pthread_mutex_unlock(&r->lock);
    return status;
}

static ebb_status_t fetch_and_parse(void *user, int thread)
{
    ebb_pack_slot_t *slot = user;
    run_t *r = slot->run;
    if (r->source->sequential)
        EBB_TRY(fetch_in_turn(r, slot));
    else
        EBB_TRY(r->p->importer.format->text ? fetch_text(r, &slot->piece) : fetch_rows(r, &slot->piece));
    return slot->beyond || slot->unwanted ? EBB_OK : parse_piece(r, slot);
}

/* Fill the ring. */
static void submit_pieces(run_t *r)
{
    ebb_pack_t *p = r->p;
    int64_t count = known_pieces(r);
    while (r->last - r->first < p->n_slots && r->next < count) {
        ebb_pack_slot_t *slot = &p->slot[r->last++ % p->n_slots];
        slot->run = r;
        slot->piece.number = r->next;
        slot->beyond = false;
        slot->unwanted = !r->needed(p, global(r, r->next));
        ebb_crew_submit(p->crew, &slot->task, fetch_and_parse, slot);
        r->next = next_piece(r, r->next + 1);
    }
}

static void drop_pieces(run_t *r)
{
    pthread_mutex_lock(&r->lock);
    r->ended = true; /* none waits for its turn any more */
    pthread_cond_broadcast(&r->turn);
    pthread_mutex_unlock(&r->lock);
    for (; r->first < r->last; r->first++)
        ebb_crew_drop(r->p->crew, &r->p->slot[r->first % r->p->n_slots].task);
}

static void note_progress(const run_t *r, int64_t done0, const ebb_pack_slot_t *slot)
{
    const ebb_source_t *s = r->source;
    int64_t done = 0, next = slot->piece.number + 1;
    if (s->stream && ebb_stream_compressed(s->stream))
        done = slot->position;
    else if (r->p->importer.format->text)
        done = next < known_pieces(r) ? next * r->p->piece_bytes : s->end;
    else if (known_pieces(r) > 0) /* rows: the file's bytes in proportion */
        done = (int64_t)((double)(s->stream ? ebb_stream_file_bytes(s->stream) : ebb_file_size(s->path)) *
                         (double)next / (double)known_pieces(r));
    ebb_progress_update(r->p->progress, done0 + done);
}

static ebb_status_t stopped(const ebb_pack_t *p)
{
    return p->o.stop && *p->o.stop ? EBB_FAIL(EBB_ESTOPPED, "stopped before %s was complete; nothing was kept", p->dest)
                                   : EBB_OK;
}

/* The table of pieces covers a piece. */
static ebb_status_t know_piece(ebb_pack_t *p, int64_t piece)
{
    int64_t n = p->rows_cap;
    EBB_TRY(ebb_grow("rows of pieces", (void **)&p->piece_rows, &p->rows_cap, piece + 1, sizeof *p->piece_rows));
    if (p->rows_cap > n)
        memset(p->piece_rows + n, 0, (size_t)(p->rows_cap - n) * sizeof *p->piece_rows);
    return EBB_OK;
}

static ebb_status_t changed(const run_t *r)
{
    return EBB_FAIL(EBB_EDATA, "%s: the file changed while it was packed; pack it again", r->source->path);
}

static ebb_status_t take_block(run_t *r, int64_t piece, ebb_block_t *block,
                               ebb_status_t (*consume)(ebb_pack_t *p, int64_t piece, ebb_block_t *block))
{
    ebb_pack_t *p = r->p;
    if (r->pass == EBB_PASS_SCAN) {
        EBB_TRY(know_piece(p, piece));
        p->piece_rows[piece] = block->rows;
    } else if (p->piece_rows[piece] != block->rows) {
        return changed(r);
    }
    return consume(p, piece, block);
}

/* *n_p: pieces of the source. */
static ebb_status_t run_pieces(run_t *r, int64_t done0, int64_t *n_p,
                               ebb_status_t (*consume)(ebb_pack_t *p, int64_t piece, ebb_block_t *block))
{
    ebb_pack_t *p = r->p;
    *n_p = known_pieces(r);
    r->next = r->turn_of = next_piece(r, 0);
    for (;;) {
        EBB_TRY(stopped(p));
        submit_pieces(r);
        if (r->first == r->last)
            return EBB_OK;
        ebb_pack_slot_t *slot = &p->slot[r->first % p->n_slots];
        int64_t piece = global(r, slot->piece.number);
        ebb_status_t status = ebb_crew_wait(p->crew, &slot->task);
        if (status == EBB_OK && slot->beyond && r->pass == EBB_PASS_SCAN) {
            *n_p = slot->piece.number;
            return EBB_OK;
        }
        if (status == EBB_OK && slot->beyond)
            status = changed(r);
        else if (status == EBB_OK && !slot->unwanted)
            status = take_block(r, piece, &slot->block, consume);
        if (status != EBB_OK) {
            p->failed_piece = piece;
            return status;
        }
        note_progress(r, done0, slot);
        r->first++;
    }
}

static ebb_status_t run_source(ebb_pack_t *p, ebb_pass_t pass, int number,
                               bool (*needed)(const ebb_pack_t *p, int64_t piece),
                               ebb_status_t (*consume)(ebb_pack_t *p, int64_t piece, ebb_block_t *block), int64_t done0)
{
    run_t r = {.p = p, .pass = pass, .source = &p->source[number], .number = number, .needed = needed};
    int64_t n = 0;
    r.at = r.source->begin;
    pthread_mutex_init(&r.lock, NULL);
    pthread_cond_init(&r.turn, NULL);
    ebb_status_t status = run_pieces(&r, done0, &n, consume);
    drop_pieces(&r);
    pthread_cond_destroy(&r.turn);
    pthread_mutex_destroy(&r.lock);
    ebb_free(r.carry);
    if (status != EBB_OK && p->failed_piece == INT64_MAX)
        p->failed_piece = global(&r, r.next);
    if (status == EBB_OK && pass == EBB_PASS_SCAN) {
        p->first_piece[number + 1] = p->first_piece[number] + n;
        p->n_pieces = p->first_piece[number + 1];
        if (p->n_pieces > 0)
            status = know_piece(p, p->n_pieces - 1);
    }
    return status;
}

ebb_status_t ebb_pack_pass(ebb_pack_t *p, ebb_pass_t pass, bool (*needed)(const ebb_pack_t *p, int64_t piece),
                           ebb_status_t (*consume)(ebb_pack_t *p, int64_t piece, ebb_block_t *block))
{
    int64_t done = 0;
    EBB_TRY(ebb_progress_create(pass == EBB_PASS_SCAN ? "scanning" : "packing", "bytes", p->in_bytes,
                                p->o.progress && p->rank == 0, &p->progress));
    ebb_status_t status = EBB_OK;
    p->failed_piece = INT64_MAX;
    for (int s = 0; s < p->n_sources && status == EBB_OK; s++) {
        status = run_source(p, pass, s, needed, consume, done);
        done += p->source[s].stream ? ebb_stream_file_bytes(p->source[s].stream) : 0;
    }
    if (status == EBB_OK)
        ebb_progress_finish(p->progress);
    ebb_progress_destroy(p->progress);
    p->progress = NULL;
    return status;
}

ebb_status_t ebb_pack_agree(ebb_pack_t *p, ebb_status_t mine)
{
    int64_t first = mine == EBB_OK ? INT64_MAX : p->failed_piece;
    EBB_TRY(ebb_comm_allreduce(p->comm, &first, 1, EBB_COMM_I64, EBB_MIN));
    /* A rank that failed at a later piece holds its tongue: the first fault in the files is the one to report. */
    if (mine != EBB_OK && first < p->failed_piece) {
        ebb_error_clear();
        mine = EBB_OK;
    }
    return ebb_comm_agree(p->comm, mine);
}
