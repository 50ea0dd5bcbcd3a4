/* Ebb: the same model, bit for bit, for any number of ranks. Includes the header of every stage. */
#ifndef EBB_H
#define EBB_H

#include <ebb/base.h>
#include <ebb/comm.h>
#include <ebb/compute.h>
#include <ebb/shard.h>
#include <ebb/loader.h>
#include <ebb/share.h>
#include <ebb/bench.h>
#include <ebb/model.h>
#include <ebb/sync.h>
#include <ebb/optim.h>
#include <ebb/checkpoint.h>
#include <ebb/train.h>
#include <ebb/report.h>
#include <ebb/watch.h>
#include <ebb/supervise.h>
#include <ebb/carbon.h>
#include <ebb/plan.h>
#include <ebb/jobs.h>
#include <ebb/slurm.h>
#include <ebb/energy.h>
#include <ebb/ledger.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where a member of a public struct lies, for callers in languages that cannot include these headers. */
typedef struct ebb_member {
    const char *name; /* "ebb_batch_t.rows"; "ebb_batch_t" is the whole struct */
    int64_t offset, size;
} ebb_member_t;

/* Members of the structs of errors, data sets and the loader; the last entry's name is NULL. */
EBB_API const ebb_member_t *ebb_members(void);

#ifdef __cplusplus
}
#endif
#endif
