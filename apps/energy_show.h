/* Energy in the record of a run, over all its ranks and starts, and as text. */
#ifndef EBB_APPS_ENERGY_SHOW_H
#define EBB_APPS_ENERGY_SHOW_H

#include <ebb/comm.h>
#include <ebb/energy.h>
#include <ebb/report.h>

/* After training: add this start's energy to the record's. *total is the run's so far, on rank 0 (job, low, high, node,
 * idle, others, gpu, cpu_seconds); elsewhere only this start's. Collective. */
ebb_status_t energy_record(ebb_comm_t *comm, ebb_meter_t *meter, ebb_record_t *record, ebb_energy_t *total);
/* "12.3 kJ (3.42 Wh)" */
const char *energy_text(double joules, char *text, size_t size);

#endif
