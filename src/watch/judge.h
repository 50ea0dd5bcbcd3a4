/* What ranks tell one another about themselves, and what follows from it. Pure functions: no clock, no socket. */
#ifndef EBB_WATCH_JUDGE_H
#define EBB_WATCH_JUDGE_H

#include <ebb/base.h>

#define EBB_WATCH_TEXT    48
#define EBB_WATCH_MESSAGE 80 /* bytes of every message */
#define EBB_WATCH_PATIENT 30 /* times the limit, at most, for what is busy but shows no progress */

typedef enum ebb_watch_type {
    EBB_WATCH_HELLO = 1, /* rank to hub; text: the job's token */
    EBB_WATCH_WELCOME,   /* hub to rank; text: the token */
    EBB_WATCH_BEAT,      /* either way: how the sender is; text: its stage */
    EBB_WATCH_BYE,       /* the sender leaves in order */
    EBB_WATCH_VERDICT,   /* hub to rank: `rank` is the reason for which all end */
} ebb_watch_type_t;

typedef enum ebb_watch_cause {
    EBB_WATCH_FINE,
    EBB_WATCH_LOST,     /* its connection broke */
    EBB_WATCH_SILENT,   /* its connection stands, but nothing comes */
    EBB_WATCH_STUCK,    /* it answers, but does nothing while others wait */
    EBB_WATCH_DEADLOCK, /* all wait for one another */
    EBB_WATCH_STALLED,  /* the only rank makes no progress */
} ebb_watch_cause_t;

typedef struct ebb_watch_message {
    ebb_watch_type_t type;
    ebb_watch_cause_t cause;
    int32_t rank;
    bool waiting;
    bool steady;      /* within a step */
    int32_t patience; /* times the limit that it may be busy without progress: 1 to EBB_WATCH_PATIENT */
    int64_t step;
    uint32_t idle_ms, still_ms; /* since it was last busy; since it last made progress */
    char text[EBB_WATCH_TEXT];
} ebb_watch_message_t;

void ebb_watch_pack(const ebb_watch_message_t *m, uint8_t bytes[EBB_WATCH_MESSAGE]);
/* False unless it is a message between the ranks of a job of `ranks`. */
bool ebb_watch_unpack(const uint8_t bytes[EBB_WATCH_MESSAGE], int ranks, ebb_watch_message_t *m);

/* What is known of a rank. */
typedef struct ebb_watch_peer {
    bool lost, left;
    int64_t heard_ns; /* 0: not yet */
    bool waiting, steady;
    int32_t patience;
    int64_t step;
    uint32_t idle_ms, still_ms;
    char stage[EBB_WATCH_TEXT];
} ebb_watch_peer_t;

void ebb_watch_note(ebb_watch_peer_t *peer, const ebb_watch_message_t *beat, int64_t now_ns);
/* The first rank for which the job must end, and why. */
ebb_watch_cause_t ebb_watch_judge(const ebb_watch_peer_t *peer, int ranks, int64_t now_ns, int64_t limit_ns,
                                  int *rank_p);
/* "rank 3 on node7 ...", and its length. */
int ebb_watch_sentence(ebb_watch_cause_t cause, int rank, const char *host, const ebb_watch_peer_t *peer, double limit,
                       char *text, size_t size);

#endif
