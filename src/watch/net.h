/* Who a rank is and where it listens, and connections between ranks. IPv4. */
#ifndef EBB_WATCH_NET_H
#define EBB_WATCH_NET_H

#include <ebb/base.h>

#define EBB_WATCH_ADDRESSES 8
#define EBB_WATCH_TOKEN     16

/* As exchanged by the communicator. */
typedef struct ebb_watch_card {
    char host[64];
    char boot[40];      /* which kernel, and which of its process id spaces: */
    uint64_t pid_space; /* together they say whether a pid means something here */
    int64_t pid;
    uint64_t started; /* clock ticks since boot: tells a process from a later one of the same pid */
    uint32_t address[EBB_WATCH_ADDRESSES]; /* network order */
    uint16_t port;                         /* network order; 0: does not listen */
    uint16_t addresses;
    uint8_t token[EBB_WATCH_TOKEN];
} ebb_watch_card_t;

/* Fill in this process's card; *listener_p is -1 where it cannot listen. */
void ebb_watch_card_fill(ebb_watch_card_t *card, int *listener_p);
bool ebb_watch_same_host(const ebb_watch_card_t *a, const ebb_watch_card_t *b);
/* Connect to one of them, blocking until deadline_ns at the latest; -1 if none answers. */
int ebb_watch_dial(const ebb_watch_card_t *mine, const ebb_watch_card_t *to, int64_t deadline_ns);
/* Is the process of the card alive as far as its kernel accepts connections? */
bool ebb_watch_answers(const ebb_watch_card_t *mine, const ebb_watch_card_t *to, int64_t deadline_ns);
/* SIGKILL to the card's process if it is one of this host, and still the same. */
void ebb_watch_kill(const ebb_watch_card_t *mine, const ebb_watch_card_t *victim);

#endif
