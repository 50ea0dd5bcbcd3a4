/* The watchdog's messages and judgement.
 *
 * A message is 80 bytes, little-endian: magic, type, flags, rank, cause, patience, step, idle, still, text. A rank is
 * lost when its connection breaks, silent when nothing came for the limit. A rank that answers is stuck only while
 * another waits for it, when it neither made progress nor used its processors or disks for the limit, or was busy
 * without progress (one kernel on a huge lane, the checkpoint's fsync) for as many times the limit as its own history
 * allows (self.c). Ranks that wait are nobody's reason, unless all do. For the only rank of a job nobody waits: it is
 * stalled when it does nothing for the limit, or when a step of training makes no progress for as many times that. */
#include "watch/judge.h"

#include <stdio.h>
#include <string.h>

#define MAGIC 0x57626245u

enum { AT_MAGIC = 0, AT_TYPE = 4, AT_FLAGS = 6, AT_RANK = 8, AT_CAUSE = 12, AT_PATIENCE = 14, AT_STEP = 16 };
enum { AT_IDLE = 24, AT_STILL = 28, AT_TEXT = 32, FLAG_WAITING = 1, FLAG_STEADY = 2 };

static void put(uint8_t *at, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> 8 * i);
}

static uint64_t get(const uint8_t *at, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++)
        value |= (uint64_t)at[i] << 8 * i;
    return value;
}

void ebb_watch_pack(const ebb_watch_message_t *m, uint8_t bytes[EBB_WATCH_MESSAGE])
{
    put(bytes + AT_MAGIC, MAGIC, 4);
    put(bytes + AT_TYPE, m->type, 2);
    put(bytes + AT_FLAGS, (m->waiting ? FLAG_WAITING : 0) | (m->steady ? FLAG_STEADY : 0), 2);
    put(bytes + AT_RANK, (uint32_t)m->rank, 4);
    put(bytes + AT_CAUSE, m->cause, 2);
    put(bytes + AT_PATIENCE, (uint16_t)m->patience, 2);
    put(bytes + AT_STEP, (uint64_t)m->step, 8);
    put(bytes + AT_IDLE, m->idle_ms, 4);
    put(bytes + AT_STILL, m->still_ms, 4);
    memcpy(bytes + AT_TEXT, m->text, EBB_WATCH_TEXT);
}

static bool is_printable(const char *text)
{
    const char *c = text;
    while (c < text + EBB_WATCH_TEXT && *c >= ' ' && *c <= '~')
        c++;
    return c < text + EBB_WATCH_TEXT && *c == 0;
}

bool ebb_watch_unpack(const uint8_t bytes[EBB_WATCH_MESSAGE], int ranks, ebb_watch_message_t *m)
{
    uint64_t type = get(bytes + AT_TYPE, 2), cause = get(bytes + AT_CAUSE, 2), rank = get(bytes + AT_RANK, 4);
    if (get(bytes + AT_MAGIC, 4) != MAGIC || type < EBB_WATCH_HELLO || type > EBB_WATCH_VERDICT ||
        cause > EBB_WATCH_STALLED || rank >= (uint64_t)ranks)
        return false;
    *m = (ebb_watch_message_t){.type = (ebb_watch_type_t)type,
                               .cause = (ebb_watch_cause_t)cause,
                               .rank = (int32_t)rank,
                               .waiting = (get(bytes + AT_FLAGS, 2) & FLAG_WAITING) != 0,
                               .steady = (get(bytes + AT_FLAGS, 2) & FLAG_STEADY) != 0,
                               .patience = (int32_t)get(bytes + AT_PATIENCE, 2),
                               .step = (int64_t)get(bytes + AT_STEP, 8),
                               .idle_ms = (uint32_t)get(bytes + AT_IDLE, 4),
                               .still_ms = (uint32_t)get(bytes + AT_STILL, 4)};
    memcpy(m->text, bytes + AT_TEXT, EBB_WATCH_TEXT);
    return (type != EBB_WATCH_BEAT && type != EBB_WATCH_VERDICT) || is_printable(m->text);
}

void ebb_watch_note(ebb_watch_peer_t *peer, const ebb_watch_message_t *beat, int64_t now_ns)
{
    peer->heard_ns = now_ns;
    peer->waiting = beat->waiting;
    peer->steady = beat->steady;
    peer->patience = beat->patience;
    peer->step = beat->step;
    peer->idle_ms = beat->idle_ms;
    peer->still_ms = beat->still_ms;
    memcpy(peer->stage, beat->text, EBB_WATCH_TEXT);
}

static bool is_silent(const ebb_watch_peer_t *p, int64_t now_ns, int64_t limit_ns)
{
    return p->heard_ns > 0 && now_ns - p->heard_ns >= limit_ns;
}

/* How long it may be busy without progress; before its first beat nothing is known. */
static int64_t busy_limit_ms(const ebb_watch_peer_t *p, int64_t limit_ns)
{
    return (p->patience > 0 ? p->patience : EBB_WATCH_PATIENT) * (limit_ns / 1000000);
}

static bool is_idle(const ebb_watch_peer_t *p, int64_t limit_ns)
{
    return p->idle_ms >= limit_ns / 1000000;
}

static bool stands_still(const ebb_watch_peer_t *p, int64_t limit_ns)
{
    return is_idle(p, limit_ns) || p->still_ms >= busy_limit_ms(p, limit_ns);
}

/* Nobody waits for the only rank: between steps it may be busy, or wait for a disk, for as long as it pleases. */
static bool is_stalled(const ebb_watch_peer_t *p, int64_t limit_ns)
{
    return is_idle(p, limit_ns) || (p->steady && stands_still(p, limit_ns));
}

/* While all wait and nothing moves, a rank that sleeps among ranks that poll hangs within its call: one library waits
 * in one way. -1: none. */
static int find_sleeper(const ebb_watch_peer_t *peer, int ranks, int64_t limit_ns)
{
    uint32_t limit_ms = (uint32_t)(limit_ns / 1000000);
    int sleeper = -1;
    bool polls = false;
    for (int r = 0; r < ranks; r++) {
        if (peer[r].left)
            continue;
        if (!peer[r].waiting || peer[r].still_ms < limit_ms)
            return -1;
        if (peer[r].idle_ms >= limit_ms)
            sleeper = sleeper < 0 ? r : sleeper;
        else
            polls = polls || peer[r].idle_ms < limit_ms / 2;
    }
    return polls ? sleeper : -1;
}

ebb_watch_cause_t ebb_watch_judge(const ebb_watch_peer_t *peer, int ranks, int64_t now_ns, int64_t limit_ns,
                                  int *rank_p)
{
    int waiting = 0, working = 0, stuck = -1, lowest = -1, silent = -1;
    bool long_wait = true;
    *rank_p = 0;
    if (ranks == 1)
        return is_stalled(peer, limit_ns) ? EBB_WATCH_STALLED : EBB_WATCH_FINE;
    for (int r = 0; r < ranks; r++) {
        const ebb_watch_peer_t *p = &peer[r];
        *rank_p = r;
        if (p->left)
            continue;
        if (p->lost)
            return EBB_WATCH_LOST;
        if (silent < 0 && is_silent(p, now_ns, limit_ns))
            silent = r;
        if (p->waiting) {
            waiting++;
            lowest = lowest < 0 || p->step < peer[lowest].step ? r : lowest;
            long_wait = long_wait && p->still_ms >= EBB_WATCH_PATIENT * (limit_ns / 1000000);
        } else {
            working++;
            stuck = stuck < 0 && stands_still(p, limit_ns) ? r : stuck;
        }
    }
    if (silent >= 0) {
        *rank_p = silent;
        return EBB_WATCH_SILENT;
    }
    if (stuck < 0)
        stuck = find_sleeper(peer, ranks, limit_ns);
    if (stuck >= 0 && waiting > 0) {
        *rank_p = stuck;
        return EBB_WATCH_STUCK;
    }
    if (waiting > 0 && working == 0 && long_wait) {
        *rank_p = lowest;
        return EBB_WATCH_DEADLOCK;
    }
    return EBB_WATCH_FINE;
}

int ebb_watch_sentence(ebb_watch_cause_t cause, int rank, const char *host, const ebb_watch_peer_t *peer, double limit,
                       char *text, size_t size)
{
    char why[128];
    if (cause == EBB_WATCH_LOST)
        snprintf(why, sizeof why, "does not answer: killed, or its host is lost");
    else if (cause == EBB_WATCH_SILENT)
        snprintf(why, sizeof why, "does not answer for %.0f s: stopped, or its host or link is down", limit);
    else if (cause == EBB_WATCH_STUCK)
        snprintf(why, sizeof why, "is stuck: no progress for %.0f s or more while others wait", limit);
    else if (cause == EBB_WATCH_STALLED)
        snprintf(why, sizeof why, "is stuck: no progress for %.0f s or more", limit);
    else
        snprintf(why, sizeof why, "and all others wait for one another for %.0f s", limit * EBB_WATCH_PATIENT);
    int n = snprintf(text, size, "rank %d on %s %s; last seen at step %lld, %s", rank, host, why, (long long)peer->step,
                     peer->stage[0] ? peer->stage : "starting");
    return n < (int)size ? n : (int)size - 1;
}
