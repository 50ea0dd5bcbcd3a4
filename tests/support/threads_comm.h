/* Ranks that are threads of one process, for tests that have to see what all of them ask of the system. Collectives
 * wait at a barrier; messages are copied into a list that their receiver looks through. */
#ifndef EBB_TESTS_THREADS_COMM_H
#define EBB_TESTS_THREADS_COMM_H

#include <ebb/comm.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS_MOST = 8 };

typedef struct threads_message {
    struct threads_message *next;
    int from, to, tag;
    int64_t bytes;
    char data[];
} threads_message_t;

typedef struct threads_hall {
    pthread_barrier_t gate;
    pthread_mutex_t lock;
    int size;
    void *slot[THREADS_MOST];
    threads_message_t *sent; /* oldest first, under lock */
} threads_hall_t;

typedef struct threads_seat {
    threads_hall_t *hall;
    int rank;
} threads_seat_t;

static ebb_status_t threads_barrier(void *state)
{
    pthread_barrier_wait(&((threads_seat_t *)state)->hall->gate);
    return EBB_OK;
}

/* All show a buffer; what act does with them happens while none changes. */
static void threads_show(threads_seat_t *s, void *buf)
{
    s->hall->slot[s->rank] = buf;
    pthread_barrier_wait(&s->hall->gate);
}

static ebb_status_t threads_bcast(void *state, void *buf, int64_t bytes, int root)
{
    threads_seat_t *s = state;
    threads_show(s, buf);
    if (s->rank != root)
        memcpy(buf, s->hall->slot[root], (size_t)bytes);
    return threads_barrier(s);
}

static int64_t threads_join_i64(int64_t a, int64_t b, ebb_reduce_t op)
{
    return op == EBB_SUM ? a + b : op == EBB_BOR ? a | b : (a < b) == (op == EBB_MIN) ? a : b;
}

static ebb_status_t threads_allreduce(void *state, void *buf, int64_t count, ebb_comm_type_t type, ebb_reduce_t op)
{
    threads_seat_t *s = state;
    double *f = calloc((size_t)count, sizeof *f);
    int64_t *n = calloc((size_t)count, sizeof *n);
    threads_show(s, buf);
    for (int r = 0; r < s->hall->size; r++)
        for (int64_t i = 0; i < count; i++) {
            const double x = type == EBB_COMM_F64 ? ((double *)s->hall->slot[r])[i] : 0;
            const int64_t k = type == EBB_COMM_I64 ? ((int64_t *)s->hall->slot[r])[i] : 0;
            f[i] = r == 0 ? x : op == EBB_SUM ? f[i] + x : (f[i] < x) == (op == EBB_MIN) ? f[i] : x;
            n[i] = r == 0 ? k : threads_join_i64(n[i], k, op);
        }
    threads_barrier(s);
    memcpy(buf, type == EBB_COMM_F64 ? (void *)f : (void *)n, (size_t)count * sizeof *n);
    free(f);
    free(n);
    return type == EBB_COMM_F32 ? EBB_EBUG : EBB_OK;
}

static ebb_status_t threads_allgather(void *state, const void *send, int64_t bytes, void *recv)
{
    threads_seat_t *s = state;
    threads_show(s, (void *)send);
    for (int r = 0; r < s->hall->size; r++)
        memcpy((char *)recv + r * bytes, s->hall->slot[r], (size_t)bytes);
    return threads_barrier(s);
}

static ebb_status_t threads_allgatherv(void *state, const void *send, int64_t bytes, void *recv, const int64_t *counts,
                                       const int64_t *displs)
{
    (void)state, (void)send, (void)bytes, (void)recv, (void)counts, (void)displs;
    return EBB_EBUG;
}

static ebb_status_t threads_alltoall(void *state, const void *send, int64_t bytes, void *recv)
{
    (void)state, (void)send, (void)bytes, (void)recv;
    return EBB_EBUG;
}

static ebb_status_t threads_isend(void *state, const void *buf, int64_t bytes, int peer, int tag, ebb_request_t *req)
{
    threads_seat_t *s = state;
    threads_message_t *m = malloc(sizeof *m + (size_t)bytes), **at = &s->hall->sent;
    *m = (threads_message_t){.from = s->rank, .to = peer, .tag = tag, .bytes = bytes};
    memcpy(m->data, buf, (size_t)bytes);
    pthread_mutex_lock(&s->hall->lock);
    while (*at)
        at = &(*at)->next;
    *at = m;
    pthread_mutex_unlock(&s->hall->lock);
    memset(req, 0, sizeof *req);
    return EBB_OK;
}

static ebb_status_t threads_irecv(void *state, void *buf, int64_t bytes, int peer, int tag, ebb_request_t *req)
{
    (void)state;
    *req = (ebb_request_t){{(uint64_t)(uintptr_t)buf, (uint64_t)bytes, (uint64_t)peer + 1, (uint64_t)tag}};
    return EBB_OK;
}

static bool threads_receive(threads_seat_t *s, const ebb_request_t *req)
{
    pthread_mutex_lock(&s->hall->lock);
    threads_message_t **at = &s->hall->sent, *m;
    while ((m = *at) && (m->to != s->rank || m->from + 1 != (int)req->word[2] || m->tag != (int)req->word[3]))
        at = &m->next;
    if (m) {
        *at = m->next;
        memcpy((void *)(uintptr_t)req->word[0], m->data, (size_t)m->bytes);
        free(m);
    }
    pthread_mutex_unlock(&s->hall->lock);
    return m != NULL;
}

static ebb_status_t threads_waitall(void *state, int n, ebb_request_t *reqs)
{
    for (int i = 0; i < n; i++)
        while (reqs[i].word[2] != 0 && !threads_receive(state, &reqs[i]))
            sched_yield();
    return EBB_OK;
}

static void threads_abort(void *state, int code)
{
    (void)state;
    _Exit(code);
}

static void threads_destroy(void *state)
{
    free(state);
}

static const ebb_comm_ops_t threads_ops = {
    .version = EBB_COMM_VERSION,
    .name = "threads",
    .barrier = threads_barrier,
    .bcast = threads_bcast,
    .allreduce = threads_allreduce,
    .allgather = threads_allgather,
    .allgatherv = threads_allgatherv,
    .alltoall = threads_alltoall,
    .isend = threads_isend,
    .irecv = threads_irecv,
    .waitall = threads_waitall,
    .abort = threads_abort,
    .destroy = threads_destroy,
};

static void threads_hall_open(threads_hall_t *hall, int size)
{
    *hall = (threads_hall_t){.size = size};
    pthread_barrier_init(&hall->gate, NULL, (unsigned)size);
    pthread_mutex_init(&hall->lock, NULL);
}

static void threads_hall_close(threads_hall_t *hall)
{
    pthread_barrier_destroy(&hall->gate);
    pthread_mutex_destroy(&hall->lock);
}

/* The communicator of one rank, to be used by one thread. */
static ebb_status_t threads_comm(threads_hall_t *hall, int rank, ebb_comm_t **comm_p)
{
    threads_seat_t *s = malloc(sizeof *s);
    *s = (threads_seat_t){hall, rank};
    return ebb_comm_create(&threads_ops, s, rank, hall->size, rank, hall->size, comm_p);
}

#endif
