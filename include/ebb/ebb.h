/* Ebb: the same model, bit for bit, for any number of ranks. Includes the header of every stage. */
#ifndef EBB_H
#define EBB_H

#include <ebb/base.h>
#include <ebb/comm.h>
#include <ebb/compute.h>
#include <ebb/shard.h>
#include <ebb/loader.h>
#include <ebb/model.h>
#include <ebb/sync.h>
#include <ebb/optim.h>
#include <ebb/checkpoint.h>
#include <ebb/train.h>
#include <ebb/report.h>

#endif
