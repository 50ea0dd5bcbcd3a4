/* ebb doctor: MPI, HDF5 with its zstd filter, zstd and oneDNN; each is tried, not only asked for its version. */
#include "doctor.h"

#include <dnnl.h>
#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <mpi.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zstd.h>

#define MPI_SECONDS 20 /* a start that takes longer is given up */
#define ZSTD_FILTER 32015
#define SAMPLE      4096

/* ---- MPI ---- */

static const char *thread_level_name(int level)
{
    return level >= MPI_THREAD_MULTIPLE     ? "multiple"
           : level >= MPI_THREAD_SERIALIZED ? "serialized"
           : level >= MPI_THREAD_FUNNELED   ? "funneled"
                                            : "single";
}

/* In a child process: MPI ends the process when it cannot start. */
static void start_mpi(int fd)
{
    int level, null = open("/dev/null", O_WRONLY);
    dup2(null, STDERR_FILENO);
    dup2(null, STDOUT_FILENO);
    setenv("HWLOC_COMPONENTS", "-gl", false); /* as in comm/mpi: no search for X displays */
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &level) == MPI_SUCCESS) {
        (void)!write(fd, &level, sizeof level);
        MPI_Finalize();
    }
    _exit(0);
}

/* Thread level that MPI gives when it starts alone, -1 if it does not start. */
static int try_mpi(void)
{
    int fds[2], level = -1;
    if (pipe(fds) != 0)
        return -1;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        start_mpi(fds[1]);
    close(fds[1]);
    struct pollfd wait = {.fd = fds[0], .events = POLLIN};
    if (child > 0 && poll(&wait, 1, MPI_SECONDS * 1000) == 1 && read(fds[0], &level, sizeof level) != sizeof level)
        level = -1;
    close(fds[0]);
    if (child > 0 && level < 0)
        kill(child, SIGKILL);
    if (child > 0)
        waitpid(child, NULL, 0);
    return level;
}

static int thread_level(void)
{
    int initialized, level;
    MPI_Initialized(&initialized);
    if (!initialized)
        return try_mpi();
    MPI_Query_thread(&level);
    return level;
}

static void check_mpi(doctor_t *d)
{
    char version[MPI_MAX_LIBRARY_VERSION_STRING];
    int n, level = thread_level();
    MPI_Get_library_version(version, &n);
    version[strcspn(version, ",\n")] = 0;
    bool ok = level >= MPI_THREAD_FUNNELED;
    doctor_row_t *row =
        doctor_add(d, "mpi", ok ? DOCTOR_OK : DOCTOR_UNUSABLE, "%s, %s%s", version,
                   level < 0 ? "does not start" : "threads ", level < 0 ? "" : thread_level_name(level));
    if (!ok)
        doctor_cure(row, "start a program of one rank by hand to see why: mpirun -n 1 ebb doctor");
}

static void check_launcher(doctor_t *d)
{
    static const char *const names[] = {"srun", "mpirun", "mpiexec"};
    char found[300] = "", path[200];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!doctor_find_program(names[i], path, sizeof path))
            continue;
        size_t n = strlen(found);
        snprintf(found + n, sizeof found - n, "%s%s", n ? ", " : "", path);
    }
    if (!found[0]) {
        doctor_cure(doctor_add(d, "launcher", DOCTOR_MISSING, "no mpirun, mpiexec or srun on PATH; one rank works"),
                    "apt-get install openmpi-bin, or load your cluster's MPI module");
        return;
    }
    doctor_row_t *row = doctor_add(d, "launcher", DOCTOR_OK, "%s", found);
    if (geteuid() == 0 && strstr(found, "mpi") && !getenv("OMPI_ALLOW_RUN_AS_ROOT"))
        doctor_cure(row, "Open MPI's mpirun refuses root without: export OMPI_ALLOW_RUN_AS_ROOT=1 "
                         "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1");
}

/* ---- HDF5 ---- */

static herr_t write_and_read(hid_t file, unsigned filter)
{
    hsize_t size = SAMPLE;
    int in[SAMPLE], out[SAMPLE] = {0};
    for (int i = 0; i < SAMPLE; i++)
        in[i] = i / 7;
    hid_t space = H5Screate_simple(1, &size, NULL), create = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(create, 1, &size);
    herr_t status = filter ? H5Pset_filter(create, (H5Z_filter_t)filter, H5Z_FLAG_MANDATORY, 0, NULL) : 0;
    hid_t set = status < 0 ? -1 : H5Dcreate2(file, "x", H5T_NATIVE_INT, space, H5P_DEFAULT, create, H5P_DEFAULT);
    if (set < 0 || H5Dwrite(set, H5T_NATIVE_INT, H5S_ALL, H5S_ALL, H5P_DEFAULT, in) < 0)
        status = -1;
    if (set >= 0)
        status = H5Dclose(set) < 0 ? -1 : status;
    set = status < 0 ? -1 : H5Dopen2(file, "x", H5P_DEFAULT);
    if (set < 0 || H5Dread(set, H5T_NATIVE_INT, H5S_ALL, H5S_ALL, H5P_DEFAULT, out) < 0)
        status = -1;
    if (set >= 0)
        H5Dclose(set);
    H5Pclose(create);
    H5Sclose(space);
    return status < 0 || memcmp(in, out, sizeof in) != 0 ? -1 : 0;
}

/* Write a dataset with a filter (0: none) into memory, flush it out of the chunk cache, and read it again. */
static bool try_hdf5(unsigned filter)
{
    herr_t status = -1;
    H5E_auto2_t print;
    void *user;
    H5Eget_auto2(H5E_DEFAULT, &print, &user);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_fapl_core(access, 1 << 16, 0);
    hid_t file = H5Fcreate("doctor.h5", H5F_ACC_TRUNC, H5P_DEFAULT, access);
    if (file >= 0) {
        status = write_and_read(file, filter);
        H5Fclose(file);
    }
    H5Pclose(access);
    H5Eset_auto2(H5E_DEFAULT, print, user);
    return status >= 0;
}

static void check_hdf5(doctor_t *d)
{
    unsigned major, minor, release;
    H5get_libversion(&major, &minor, &release);
    bool same = major == H5_VERS_MAJOR && minor == H5_VERS_MINOR;
    bool ok = same && try_hdf5(0);
    doctor_row_t *row =
        doctor_add(d, "hdf5", ok ? DOCTOR_OK : DOCTOR_UNUSABLE, "HDF5 %u.%u.%u%s", major, minor, release,
                   ok     ? ", writes and reads"
                   : same ? ", fails to write or read in memory"
                          : ", not the version Ebb was built with (" H5_VERS_INFO ")");
    row->required = true;
    if (!ok)
        doctor_cure(row, "rebuild Ebb with this HDF5, or look for a second libhdf5 in LD_LIBRARY_PATH");
}

/* Folder of the installed plug-in: beside the program, in its prefix. */
static void plugin_folder(char *path, size_t size)
{
    char exe[4000] = "";
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[n > 0 ? n : 0] = 0;
    for (int i = 0; i < 2; i++)
        if (strrchr(exe, '/'))
            *strrchr(exe, '/') = 0;
    snprintf(path, size, "%s/%s", exe, EBB_PLUGIN_SUBDIR);
}

/* Ebb decodes zstd chunks itself; the filter is for h5dump, h5py and other readers of shards. */
static void check_filter(doctor_t *d)
{
    char folder[4200];
    plugin_folder(folder, sizeof folder);
    if (try_hdf5(ZSTD_FILTER)) {
        doctor_add(d, "zstd filter", DOCTOR_OK, "h5dump and h5py can read shards (filter %d)", ZSTD_FILTER);
        return;
    }
    bool ours = access(folder, X_OK) == 0 && H5PLprepend(folder) >= 0 && try_hdf5(ZSTD_FILTER);
    if (ours)
        doctor_cure(doctor_add(d, "zstd filter", DOCTOR_OK, "Ebb's plug-in works, but is not in HDF5's plug-in path"),
                    "for h5dump and h5py: export HDF5_PLUGIN_PATH=%.300s", folder);
    else
        doctor_cure(doctor_add(d, "zstd filter", DOCTOR_MISSING,
                               "HDF5 finds no filter %d; Ebb itself does not need it, h5dump and h5py do", ZSTD_FILTER),
                    "cmake --install puts one into PREFIX/%s; then export HDF5_PLUGIN_PATH=that folder",
                    EBB_PLUGIN_SUBDIR);
}

/* ---- compression and dense math ---- */

static void check_zstd(doctor_t *d)
{
    char in[SAMPLE], packed[2 * SAMPLE], out[SAMPLE];
    for (int i = 0; i < SAMPLE; i++)
        in[i] = (char)(i / 9);
    size_t n = ZSTD_compress(packed, sizeof packed, in, sizeof in, 9);
    bool ok =
        !ZSTD_isError(n) && ZSTD_decompress(out, sizeof out, packed, n) == sizeof in && memcmp(in, out, sizeof in) == 0;
    doctor_row_t *row = doctor_add(d, "zstd", ok ? DOCTOR_OK : DOCTOR_UNUSABLE, "zstd %s", ZSTD_versionString());
    row->required = true;
    if (!ok)
        doctor_cure(row, "reinstall libzstd1");
}

static const char *isa_name(dnnl_cpu_isa_t isa)
{
    if (isa >= dnnl_cpu_isa_avx512_core)
        return "AVX-512";
    return isa >= dnnl_cpu_isa_avx2 ? "AVX2" : "SSE4.1 or AVX";
}

static void check_onednn(doctor_t *d)
{
    const dnnl_version_t *v = dnnl_version();
    dnnl_engine_t engine = NULL;
    bool ok = dnnl_engine_create(&engine, dnnl_cpu, 0) == dnnl_success;
    if (ok)
        dnnl_engine_destroy(engine);
    doctor_row_t *row = doctor_add(d, "oneDNN", ok ? DOCTOR_OK : DOCTOR_UNUSABLE, "oneDNN %d.%d.%d, uses %s", v->major,
                                   v->minor, v->patch, isa_name(dnnl_get_effective_cpu_isa()));
    row->required = true;
    if (!ok)
        doctor_cure(row, "oneDNN needs SSE4.1; without it dense models cannot be trained on this processor");
}

void doctor_check_libraries(doctor_t *d)
{
    check_mpi(d);
    check_launcher(d);
    check_hdf5(d);
    check_filter(d);
    check_zstd(d);
    check_onednn(d);
}
