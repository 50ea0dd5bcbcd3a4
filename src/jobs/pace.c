/* A start takes time in which nothing is done: the pace is told from the first progress on, and what passed until then,
 * less what was done by then, is the start. */
#include "jobs/pace.h"

#include <math.h>

#define SHOWN 0.02 /* of the work, before progress is trusted to tell the rest */

static void begin(ebb_pace_t *p, double since, double begun, double share)
{
    p->since = since;
    p->begun = begun;
    p->before = p->share = share;
    p->from = 0;
}

bool ebb_pace_see(ebb_pace_t *p, double since, double now, double share)
{
    if (since != p->since) {
        begin(p, since, p->watched ? since : 0, share);
    } else if (share < p->share) {
        begin(p, since, p->from > 0 ? now : p->begun, share);
    } else if (since > 0 && p->from == 0 && share > p->share) {
        p->from = now;
        p->share = share;
    } else if (p->from > 0 && share - p->share >= SHOWN) {
        p->whole_s = (now - p->from) / (share - p->share);
        if (p->begun > 0)
            p->start_s = fmax(p->start_s, p->from - p->begun - (p->share - p->before) * p->whole_s);
        return true;
    }
    p->watched = true;
    return false;
}
