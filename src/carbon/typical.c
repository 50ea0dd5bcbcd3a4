/* Typical days: means by month and hour for zones whose data may be used, and the names that other services give to
 * those zones. */
#include "carbon/internal.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#define SOURCE "Electricity Maps, by way of umassos/decarbonization-potential (Apache-2.0)"

/* clang-format off */
#include "carbon/typical_days.inc"
/* clang-format on */

const ebb_carbon_zone_t *ebb_carbon_zones(void)
{
    return zones;
}

/* Balancing authorities of WattTime and regions of the Carbon Aware SDK (Azure's) that lie in a zone of ours. */
static const char *const aliases[][2] = {
    {"CAISO_NORTH", "US-CAL-CISO"},
    {"CISO", "US-CAL-CISO"},
    {"CAISO", "US-CAL-CISO"},
    {"ERCOT", "US-TEX-ERCO"},
    {"PJM", "US-MIDA-PJM"},
    {"ISONE", "US-NE-ISNE"},
    {"ISNE", "US-NE-ISNE"},
    {"PACW", "US-NW-PACW"},
    {"UK", "GB"},
    {"SE", "SE-SE3"},
    {"DK", "DK-DK1"},
    {"IT", "IT-NO"},
    {"westus", "US-CAL-CISO"},
    {"southcentralus", "US-TEX-ERCO"},
    {"eastus", "US-MIDA-PJM"},
    {"northeurope", "IE"},
    {"westeurope", "NL"},
    {"uksouth", "GB"},
    {"ukwest", "GB"},
    {"francecentral", "FR"},
    {"germanywestcentral", "DE"},
    {"swedencentral", "SE-SE3"},
    {"switzerlandnorth", "CH"},
    {"norwayeast", "NO"},
};

static const ebb_carbon_zone_t *find(const char *name, ebb_carbon_scope_t scope)
{
    const ebb_carbon_zone_t *any = NULL;
    for (const ebb_carbon_zone_t *z = zones; z->name; z++) {
        if (strcasecmp(z->name, name) != 0)
            continue;
        if (scope == EBB_CARBON_SCOPE_UNKNOWN || z->scope == scope)
            return z;
        any = any ? any : z;
    }
    return any;
}

const ebb_carbon_zone_t *ebb_carbon_zone(const char *name, ebb_carbon_scope_t scope)
{
    const ebb_carbon_zone_t *zone = find(name, scope);
    for (size_t i = 0; !zone && i < sizeof aliases / sizeof *aliases; i++)
        if (strcasecmp(aliases[i][0], name) == 0)
            zone = find(aliases[i][1], scope);
    if (!zone && strncasecmp(name, "GB-", 3) == 0)
        zone = find("GB", scope);
    return zone;
}

double ebb_carbon_typical(const ebb_carbon_zone_t *zone, int64_t time)
{
    time_t t = (time_t)time;
    struct tm tm;
    gmtime_r(&t, &tm);
    return zone->tenths[tm.tm_mon][tm.tm_hour] / 10.0;
}
