/* ebb doctor: the ranks this report runs on, and Slurm. */
#include "doctor.h"
#include "base/threads.h"

#include <ebb/comm.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* First line that a command prints, "" if none. */
static void first_line(const char *command, char *text, size_t size)
{
    FILE *pipe = popen(command, "r");
    text[0] = 0;
    if (pipe && fgets(text, (int)size, pipe))
        text[strcspn(text, "\n")] = 0;
    if (pipe)
        pclose(pipe);
}

static void check_slurm(doctor_t *d)
{
    static const char *const programs[] = {"sbatch", "squeue", "srun"};
    const char *job = getenv("SLURM_JOB_ID"), *nodes = getenv("SLURM_JOB_NUM_NODES"), *tasks = getenv("SLURM_NTASKS");
    char controller[160];
    int found = 0;
    for (int i = 0; i < 3; i++)
        found += doctor_find_program(programs[i], NULL, 0);
    if (found == 0) {
        doctor_cure(doctor_add(d, "slurm", DOCTOR_MISSING, "no sbatch, squeue or srun on PATH"),
                    "only for Slurm clusters: run this on a login node, or load the cluster's module");
        return;
    }
    first_line("timeout 5 scontrol ping 2>/dev/null", controller, sizeof controller);
    bool up = strstr(controller, " UP") != NULL;
    doctor_row_t *row = doctor_add(d, "slurm", up && found == 3 ? DOCTOR_OK : DOCTOR_UNUSABLE, "%s; %s%s%s%s%s%s",
                                   controller[0] ? controller : "its controller does not answer",
                                   job ? "in job " : "not in an allocation", job ? job : "", nodes ? ", nodes " : "",
                                   nodes ? nodes : "", tasks ? ", tasks " : "", tasks ? tasks : "");
    if (!up)
        doctor_cure(row, "ask what `scontrol ping` says; slurm.conf and munge must be those of the cluster");
    else if (found < 3)
        doctor_cure(row, "sbatch, squeue and srun must all be on PATH");
}

void doctor_check_cluster(doctor_t *d)
{
    check_slurm(d);
}

ebb_status_t doctor_check_ranks(doctor_t *d, ebb_comm_t *comm)
{
    int64_t cores[2] = {ebb_cores(), -ebb_cores()}, hosts = ebb_comm_local_rank(comm) == 0;
    EBB_TRY(ebb_comm_allreduce(comm, cores, 2, EBB_COMM_I64, EBB_MIN));
    EBB_TRY(ebb_comm_allreduce(comm, &hosts, 1, EBB_COMM_I64, EBB_SUM));
    int64_t most = -cores[1], here = ebb_comm_local_size(comm);
    doctor_row_t *row = doctor_add(d, "ranks", DOCTOR_OK, "%d on %lld host%s, %lld here; cores per rank: %lld to %lld",
                                   ebb_comm_size(comm), (long long)hosts, hosts == 1 ? "" : "s", (long long)here,
                                   (long long)cores[0], (long long)most);
    if (here > 1 && cores[0] < 2)
        doctor_cure(row,
                    "ranks bound to one core cannot use threads: mpirun --bind-to none, or srun --cpus-per-task=N");
    return EBB_OK;
}
