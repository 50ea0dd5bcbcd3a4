/* What `ebb doctor` collects: one row per thing looked at. */
#ifndef EBB_APPS_DOCTOR_H
#define EBB_APPS_DOCTOR_H

#include <ebb/base.h>
#include <ebb/comm.h>

#define DOCTOR_ROWS 40

typedef enum doctor_state { DOCTOR_OK, DOCTOR_MISSING, DOCTOR_UNUSABLE } doctor_state_t;

typedef struct doctor_row {
    const char *name;
    doctor_state_t state;
    bool required;   /* Ebb cannot work without it */
    char found[400]; /* what is here */
    char cure[400];  /* what to do if it is not usable, or to use it better; may be empty */
} doctor_row_t;

typedef struct doctor {
    int n;
    doctor_row_t row[DOCTOR_ROWS];
} doctor_t;

/* A new row; found is formatted. */
doctor_row_t *doctor_add(doctor_t *doctor, const char *name, doctor_state_t state, const char *fmt, ...)
    EBB_PRINTF(4, 5);
void doctor_cure(doctor_row_t *row, const char *fmt, ...) EBB_PRINTF(2, 3);

/* Is a program on PATH? path may be NULL. */
bool doctor_find_program(const char *name, char *path, size_t size);

/* The checks add rows. */
void doctor_check_machine(doctor_t *doctor);   /* CPU, cores, memory, huge pages, /dev/shm, TMPDIR, open files */
void doctor_check_libraries(doctor_t *doctor); /* MPI, HDF5 and its zstd filter, zstd, oneDNN */
void doctor_check_devices(doctor_t *doctor);   /* CUDA, NCCL, NVML, RAPL */
void doctor_check_cluster(doctor_t *doctor);   /* Slurm */
/* The ranks of comm and their cores. Collective. */
ebb_status_t doctor_check_ranks(doctor_t *doctor, ebb_comm_t *comm);

#endif
