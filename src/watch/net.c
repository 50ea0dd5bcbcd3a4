/* Cards and connections of the watchdog. Best effort: what cannot be found out is left empty. */
#include "watch/net.h"
#include "base/clock.h"
#include "base/proc.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define TRY_NS ((int64_t)1000000000) /* for one address */

static uint64_t start_of(int64_t pid)
{
    ebb_proc_stat_t stat;
    return ebb_proc_stat((pid_t)pid, &stat) ? stat.started : 0;
}

static void find_addresses(ebb_watch_card_t *card)
{
    struct ifaddrs *all, *i;
    if (getifaddrs(&all) != 0)
        return;
    for (i = all; i && card->addresses < EBB_WATCH_ADDRESSES; i = i->ifa_next)
        if (i->ifa_addr && i->ifa_addr->sa_family == AF_INET && i->ifa_flags & IFF_UP && !(i->ifa_flags & IFF_LOOPBACK))
            card->address[card->addresses++] = ((const struct sockaddr_in *)(void *)i->ifa_addr)->sin_addr.s_addr;
    freeifaddrs(all);
}

static int listen_anywhere(uint16_t *port_p)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY)};
    socklen_t bytes = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -1;
    if (bind(fd, (struct sockaddr *)&at, sizeof at) != 0 || listen(fd, SOMAXCONN) != 0 ||
        getsockname(fd, (struct sockaddr *)&at, &bytes) != 0) {
        close(fd);
        return -1;
    }
    *port_p = at.sin_port;
    return fd;
}

void ebb_watch_card_fill(ebb_watch_card_t *card, int *listener_p)
{
    struct stat space;
    memset(card, 0, sizeof *card);
    if (gethostname(card->host, sizeof card->host - 1) != 0)
        snprintf(card->host, sizeof card->host, "an unknown host");
    (void)ebb_proc_read("/proc/sys/kernel/random/boot_id", card->boot, sizeof card->boot);
    card->pid_space = stat("/proc/self/ns/pid", &space) == 0 ? (uint64_t)space.st_ino : 0;
    card->pid = getpid();
    card->started = start_of(card->pid);
    find_addresses(card);
    *listener_p = listen_anywhere(&card->port);
    if (getrandom(card->token, sizeof card->token, 0) != (ssize_t)sizeof card->token)
        card->port = 0;
}

bool ebb_watch_same_host(const ebb_watch_card_t *a, const ebb_watch_card_t *b)
{
    return a->boot[0] && strcmp(a->boot, b->boot) == 0 && strcmp(a->host, b->host) == 0;
}

static int dial_address(uint32_t address, uint16_t port, int64_t deadline_ns)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = address, .sin_port = port};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1, failed = 0;
    socklen_t bytes = sizeof failed;
    if (fd < 0)
        return -1;
    if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0 && errno == EINPROGRESS) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        int64_t left = deadline_ns - ebb_now_ns();
        left = left < TRY_NS ? left : TRY_NS;
        if (left <= 0 || poll(&p, 1, (int)(left / 1000000) + 1) != 1 ||
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &bytes) != 0 || failed) {
            close(fd);
            return -1;
        }
    } else if (getpeername(fd, (struct sockaddr *)&to, &(socklen_t){sizeof to}) != 0) {
        close(fd);
        return -1;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

int ebb_watch_dial(const ebb_watch_card_t *mine, const ebb_watch_card_t *to, int64_t deadline_ns)
{
    int fd = -1;
    if (to->port && ebb_watch_same_host(mine, to))
        fd = dial_address(htonl(INADDR_LOOPBACK), to->port, deadline_ns);
    for (int i = 0; fd < 0 && to->port && i < to->addresses; i++)
        fd = dial_address(to->address[i], to->port, deadline_ns);
    return fd;
}

bool ebb_watch_answers(const ebb_watch_card_t *mine, const ebb_watch_card_t *to, int64_t deadline_ns)
{
    int fd = ebb_watch_dial(mine, to, deadline_ns);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

void ebb_watch_kill(const ebb_watch_card_t *mine, const ebb_watch_card_t *victim)
{
    bool here = mine->boot[0] && strcmp(mine->boot, victim->boot) == 0 && mine->pid_space == victim->pid_space;
    if (here && victim->pid_space && victim->pid > 1 && victim->started && start_of(victim->pid) == victim->started)
        kill((pid_t)victim->pid, SIGKILL);
}
