/* Work that a context is given once and carries out many times: CUDA graphs from captured streams. A graph holds the
 * addresses of the context's scratch memory, so it is good for as long as none of that moves (x->moves).
 *
 * CUDA lets no thread synchronise the device while some stream is captured, nor the capturing thread make or free
 * memory. So captures and such calls exclude one another (ebb_cuda_hold_memory), and what a context cannot note is
 * refused before CUDA is asked. */
#include "compute/cuda/cuda.h"

#include <pthread.h>
#include <stdlib.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static thread_local bool captures;

struct ebb_graph {
    cudaGraphExec_t exec;
    int64_t moves;   /* of the context's memory before it was captured */
    int64_t classes; /* of labels that its losses judge; 0: none */
    held_t held;     /* weights, whose rounded copy it may read */
};

ebb_status_t ebb_cuda_hold_memory(const char *what)
{
    if (captures)
        return EBB_FAIL(EBB_EUNAVAILABLE, "%s: memory moves while work is noted for a graph", what);
    pthread_mutex_lock(&lock);
    return EBB_OK;
}

void ebb_cuda_let_memory_go(void)
{
    pthread_mutex_unlock(&lock);
}

ebb_status_t ebb_cuda_not_noted(const ebb_exec_t *x, const char *what)
{
    return x->captures ? EBB_FAIL(EBB_EUNAVAILABLE, "%s cannot be noted for a graph", what) : EBB_OK;
}

ebb_status_t ebb_cuda_capture_begin(ebb_exec_t *x)
{
    EBB_TRY(ebb_cuda_use(x));
    EBB_TRY(ebb_cuda_hold_memory("a graph within a graph"));
    cudaError_t code = cudaStreamBeginCapture(x->stream, cudaStreamCaptureModeThreadLocal);
    if (code != cudaSuccess) {
        ebb_cuda_let_memory_go();
        return ebb_cuda_failed(code, "noting work for a graph");
    }
    captures = x->captures = true;
    x->noted_classes = 0;
    return EBB_OK;
}

ebb_status_t ebb_cuda_capture_end(ebb_exec_t *x, ebb_graph_t **graph_p)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    *graph_p = NULL;
    cudaError_t code = cudaStreamEndCapture(x->stream, &graph);
    captures = x->captures = false;
    if (code == cudaSuccess)
        code = cudaGraphInstantiate(&exec, graph, 0);
    if (graph)
        (void)cudaGraphDestroy(graph);
    ebb_cuda_let_memory_go();
    if (code != cudaSuccess) {
        (void)cudaGetLastError(); /* a spoilt capture is no fault of the device */
        return ebb_cuda_failed(code, "making a graph");
    }
    ebb_graph_t *g = (ebb_graph_t *)malloc(sizeof *g);
    if (!g) {
        (void)cudaGraphExecDestroy(exec);
        return EBB_FAIL(EBB_ENOMEM, "graph: out of memory");
    }
    *g = ebb_graph_t{exec, x->moves, x->noted_classes, x->device->held};
    *graph_p = g;
    return EBB_OK;
}

static bool same_weights(const held_t *a, const held_t *b)
{
    return a->w == b->w && (!a->w || (a->n == b->n && a->rounded == b->rounded && a->room.ptr == b->room.ptr));
}

ebb_status_t ebb_cuda_graph_launch(ebb_exec_t *x, const ebb_graph_t *graph, bool *done_p)
{
    *done_p = false;
    if (graph->moves != x->moves || !same_weights(&graph->held, &x->device->held))
        return EBB_OK;
    EBB_TRY(ebb_cuda_use(x));
    if (graph->classes > 0)
        EBB_TRY(ebb_cuda_will_judge(x, graph->classes));
    CUDA_TRY(cudaGraphLaunch(graph->exec, x->stream), "launching a graph");
    *done_p = true;
    return EBB_OK;
}

void ebb_cuda_graph_free(void *dev, ebb_graph_t *graph)
{
    if (!graph)
        return;
    if (ebb_cuda_use_device((const cuda_device_t *)dev) == EBB_OK)
        (void)cudaGraphExecDestroy(graph->exec);
    free(graph);
}
